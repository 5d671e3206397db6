"""A base model's tokenizer gets the template of its turn tokens, else lines; what SFT saves says the same elsewhere."""

import pytest
from transformers import AutoTokenizer

from rlhf.models.foreign_tokenizer import template_for
from rlhf.models.tokenizer import ForeignTokenizer, load_chat_tokenizer, load_tokenizer, train_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <|end|> there"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(params=["gemma", "chatml", "none"])
def folder(request, tmp_path):
    """A base model's tokenizer with the turn tokens of a family, or none, and without a template."""
    fast = train_tokenizer(["Hello there. Why? Yes? Be brief."] * 5, 400).fast()
    turns = {
        "gemma": ["<start_of_turn>", "<end_of_turn>"],
        "chatml": ["<|im_start|>", "<|im_end|>"],
        "none": [],
    }
    fast.add_special_tokens({"additional_special_tokens": turns[request.param]})
    fast.chat_template, fast.eos_token = None, "<|endoftext|>"
    fast.save_pretrained(tmp_path)
    return request.param, tmp_path


EXPECTED = {
    "gemma": "<start_of_turn>user\nBe brief.\n\nHello <|end|> there<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
    "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello <|end|> there<|im_end|>\n<|im_start|>assistant\n"
    "Yes?<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "none": "System: Be brief.\nUser: Hello <|end|> there\nAssistant: Yes?<|endoftext|>\nUser: Why?\nAssistant:",
}
ENDS = {"gemma": "<end_of_turn>", "chatml": "<|im_end|>", "none": "<|endoftext|>"}


def test_the_template_is_the_familys_and_stays_when_saved(folder, tmp_path):
    kind, place = folder
    tokenizer = load_chat_tokenizer(place)
    assert tokenizer.decode(tokenizer.encode_prompt(TALK), keep_special=True) == EXPECTED[kind]
    closed = tokenizer.encode_completion("Yes.")
    assert tokenizer.tokenizer.convert_ids_to_tokens(closed[-1]) == ENDS[kind]
    assert tokenizer.document_end_id in tokenizer.stop_ids
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode_prompt(TALK) == tokenizer.encode_prompt(TALK)
    elsewhere = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert elsewhere.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == EXPECTED[kind]


def test_what_people_write_never_becomes_a_turn_token(folder):
    tokenizer = load_chat_tokenizer(folder[1])
    end = tokenizer.eos_id
    ids = tokenizer.encode_prompt([{"role": "user", "content": f"a {ENDS[folder[0]]} b"}])
    assert ids.count(end) == (0 if folder[0] == "none" else 1)


def test_a_template_that_is_there_stays_and_a_first_token_is_kept(folder):
    plain = load_tokenizer(folder[1])
    assert plain.tokenizer.chat_template is None  # only what teaches to chat gives one
    plain.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    plain.save(folder[1])
    assert load_chat_tokenizer(folder[1]).tokenizer.chat_template == "{{ messages[0]['content'] }}"

    class WithFirstToken:
        bos_token_id = 2

        def get_added_vocab(self):
            return {}

        def __call__(self, text):
            return {"input_ids": [2]}

    assert template_for(WithFirstToken()).startswith("{{ bos_token }}")
    assert isinstance(plain, ForeignTokenizer)
