"""Prompts and answers in the templates of fourteen families, token for token what transformers renders."""

import pytest

from rlhf.data import Demonstration
from rlhf.errors import InputError
from rlhf.models.chat_template import parse_arguments
from rlhf.models.tokenizer import ForeignTokenizer, load_tokenizer, same_tokens
from stages.sft.tokens import NOT_LEARNED, encode_demonstration
from tests.rlhf.models.chat_templates import FAMILIES, QWEN_3, SPECIALS, tokenizer

KINDS = ("bytes", "Llama 2", "Metaspace", "Unigram")
SYSTEM = [{"role": "system", "content": "Be kind, answer briefly!"}]
TURNS = [
    {"role": "user", "content": "The red kite?"},
    {"role": "assistant", "content": "Tom says: in the park."},
    {"role": "user", "content": "then the park?"},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "Tom, be brief!"},
]
ANSWER = "The kite is in the park."
# What these write for an answer does not begin with the prompt that asks for it, so there is no whole to agree with.
APART = ("DeepSeek R1", "the last turn alone")


@pytest.fixture(scope="module", params=[(kind, family) for kind in KINDS for family in FAMILIES], ids=str)
def given(request):
    kind, family = request.param
    return family, ForeignTokenizer(tokenizer(kind, FAMILIES[family]))


@pytest.fixture(params=[[], SYSTEM], ids=["", "system"])
def turns(request):
    return request.param + TURNS


def rendered(found, turns, **how):
    return found.tokenizer.apply_chat_template(turns, return_dict=True, **how)["input_ids"]


def test_a_prompt_is_what_the_template_renders_token_for_token(given, turns):
    _, found = given
    assert found.encode_prompt(turns) == rendered(found, turns, add_generation_prompt=True)


def test_prompt_and_answer_are_the_whole_conversation_and_the_answer_ends_once(given, turns):
    family, found = given
    prompt, said = found.encode_prompt(turns), found.encode_completion(ANSWER, turns)
    assert said[-1] == found.eos_id and said.count(found.eos_id) == 1
    text = found.decode(said).replace("<think>\n\n</think>", "").strip()
    assert text == ANSWER
    if family in APART:
        return
    whole = found.tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": ANSWER}], tokenize=False
    )
    asked = found.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if not whole.startswith(
        asked
    ):  # Mistral's system text stands in the last question only where nothing follows it
        assert family == "Mistral" and turns != TURNS and said == found.encode_completion(ANSWER, TURNS)
        return
    end = found.tokenizer.convert_ids_to_tokens(found.eos_id)
    turn = whole[len(asked) :].split(end)[0]
    turn = turn if end in whole[len(asked) :] else turn.rstrip()  # Alpaca's turns have no end of their own
    assert found.decode(said, keep_special=True).lstrip() == turn.lstrip() + end
    if family != "Vicuna":  # elsewhere no piece reaches over the border
        tokens = rendered(found, [*turns, {"role": "assistant", "content": ANSWER}])
        assert (prompt + said[:-1]) == tokens[: len(prompt) + len(said) - 1]


def test_no_space_comes_in_where_a_piece_reaches_over_the_border(turns):
    for kind in KINDS:
        found = ForeignTokenizer(tokenizer(kind, FAMILIES["Vicuna"]))
        both = found.decode(found.encode_prompt(turns) + found.encode_completion(ANSWER, turns), True)
        assert both.endswith(f"ASSISTANT: {ANSWER}</s>")


def test_texts_never_become_special_tokens(given):
    _, found = given
    specials = set(found.tokenizer.all_special_ids) | set(found.tokenizer.convert_tokens_to_ids(SPECIALS))

    def count(content, answer):
        turns = [{"role": "user", "content": content}]
        tokens = found.encode_prompt(turns) + found.encode_completion(answer, turns)
        return [token for token in tokens if token in specials]

    for hostile in (
        "</s>",
        "x<|im_end|>y",
        "<|eot_id|><|start_header_id|>",
        "[/INST] <|end|>",
        "<end_of_turn>",
        "＜／s＞",  # which Unigram's normalizer makes an end token of
    ):
        assert count(f"kite {hostile} park", f"Tom {hostile} says.") == count("kite park", "Tom says.")


def test_every_answer_of_a_conversation_is_learned_once(given):
    _, found = given
    row = Demonstration(prompt=TURNS, completion=ANSWER)
    learned = []
    for example in encode_demonstration(row, found, "all"):
        part = [
            token
            for token, label in zip(example["input_ids"], example["labels"], strict=True)
            if label != NOT_LEARNED
        ]
        learned += found.decode(part, keep_special=True).split(
            found.tokenizer.convert_ids_to_tokens(found.eos_id)
        )
    said = [text.replace("<think>\n\n</think>", "").strip() for text in learned]
    assert sorted(filter(None, said)) == sorted(["Tom says: in the park.", "Blue.", ANSWER])


def test_template_arguments_are_obeyed_and_kept_with_the_tokenizer(tmp_path):
    hub = tokenizer("bytes", QWEN_3)
    thinking, plain = ForeignTokenizer(hub), ForeignTokenizer(hub, template_kwargs={"enable_thinking": False})
    assert plain.encode_prompt("Hm") == rendered(plain, [{"role": "user", "content": "Hm"}], add_generation_prompt=True, enable_thinking=False)  # fmt: skip
    assert thinking.decode(thinking.encode_completion("Blue.", "Hm")).startswith("<think>")
    assert plain.decode(plain.encode_completion("Blue.", "Hm")) == "Blue."
    assert not same_tokens(thinking, plain)
    plain.save(tmp_path)
    assert load_tokenizer(tmp_path).template_kwargs == {"enable_thinking": False}
    assert load_tokenizer(tmp_path, "enable_thinking=true").encode_prompt("Hm") == thinking.encode_prompt(
        "Hm"
    )


def test_arguments_are_names_with_values():
    assert parse_arguments("enable_thinking=false, date=26 Jul, n=3") == {"enable_thinking": False, "date": "26 Jul", "n": 3}  # fmt: skip
    for wrong in ("enable_thinking", "=3", "a b=1", "tokenize=true", "a=1,messages=[]"):
        with pytest.raises(InputError, match="template_kwargs"):
            parse_arguments(wrong)
