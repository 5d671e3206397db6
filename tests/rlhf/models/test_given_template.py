"""A base model's tokenizer gets the template of its turn tokens, else lines; what SFT saves says the same elsewhere."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf.models.foreign_tokenizer import is_told_apart, template_for
from rlhf.models.tokenizer import ForeignTokenizer, load_chat_tokenizer, load_tokenizer, train_tokenizer
from rlhf.store import Store
from stages import sft
from stages.settings import SFTSettings

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


def with_model(folder, twins):
    """The folder with a model whose end-of-turn tokens have the rows of the `twins` tokens at the end of its vocabulary."""
    tokenizer = load_tokenizer(folder).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = model.get_output_embeddings().weight.data
    for end in ("<end_of_turn>", "<|im_end|>"):
        if twins and end in tokenizer.get_vocab():
            rows[-twins:] = rows[tokenizer.convert_tokens_to_ids(end)]
    model.save_pretrained(folder)


@pytest.mark.parametrize("twins", [0, 32, 200])
def test_turn_tokens_that_the_model_cannot_tell_from_others_are_not_taken(folder, twins):
    kind, place = folder
    with_model(place, twins)
    tokenizer = load_chat_tokenizer(place)
    expected = "none" if twins == 200 else kind
    assert tokenizer.decode(tokenizer.encode_prompt(TALK), keep_special=True) == EXPECTED[expected]
    closed = tokenizer.encode_completion("Yes.")
    assert tokenizer.tokenizer.convert_ids_to_tokens(closed[-1]) == ENDS[expected]


@pytest.mark.parametrize(("last_blocks", "is_said"), [(1, True), (0, False)])
def test_an_end_that_a_frozen_head_cannot_say_is_told(folder, last_blocks, is_said, tmp_path):
    kind, place = folder
    if kind == "none":
        pytest.skip("the end token of documents has no twins")
    with_model(place, 200)
    own = load_tokenizer(place)
    own.tokenizer.chat_template = template_for(own.tokenizer)  # as its publisher has it
    own.save(place)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": "Yes."}) + "\n" for i in range(20)))
    said = []
    settings = SFTSettings(base=str(place), data=str(data), batch_size=10, last_blocks=last_blocks)
    sft.run(settings, Store(tmp_path / "store"), said.append)
    assert any("answers would not end" in line for line in said) == is_said


def test_rows_of_padding_are_no_twins_of_a_token_but_of_each_other():
    head = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    head[400:] = 0.0  # as a vocabulary is filled up that is divided evenly
    assert is_told_apart(7, head) and not is_told_apart(450, head)
