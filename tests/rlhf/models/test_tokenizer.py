"""tiktoken and transformers must read any text alike, and a user's text must never become a special token."""

import os
import re
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config

from rlhf.errors import InputError
from rlhf.models import tokenizer as tokenizers
from rlhf.models.foreign_tokenizer import ForeignTokenizer
from rlhf.models.tokenizer import (
    Tokenizer,
    any_tokenizer,
    load_tokenizer,
    published_tokenizer,
    train_tokenizer,
)
from tests.rlhf.models import chat_templates

CORPUS = [
    "The red kite is in the park. Tom's boat isn't blue!\n\n  Three   spaces, 1234 numbers and x = y + 1.",
    "吾輩は猫である。名前はまだ無い。 Ünïcödé – “quotes” … 😀👩‍👩‍👧",
] * 20
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, 420)


@pytest.fixture(scope="module")
def fast(tokenizer):
    return tokenizer.fast()


texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.characters(codec=None, categories=["Cs", "Cc", "Lo", "So", "Zs", "Ll"]), max_size=40),
    st.lists(
        st.sampled_from([*SPECIAL, " ", "猫", "😀", "\ud83d", "\x00", "'s", "\r\n", "a"]), max_size=8
    ).map("".join),
)


@settings(max_examples=400)
@given(texts)
def test_both_sides_give_the_same_ids_and_no_special_ones(tokenizer, fast, text):
    ids = tokenizer.encode(text)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert fast(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
    assert not set(ids) & {tokenizer.pad_id, *tokenizer.stop_ids}
    assert tokenizer.decode(ids) == whole


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from([*SPECIAL, *" \n\t\x1c\x85\u3000", " " * 5, "\r\n", "a", "猫", "1", "!"]), max_size=20
    ).map("".join)
)
def test_blanks_that_are_split_off_give_the_tokens_of_the_whole_text(tokenizer, text):
    plain = tokenizer.encoding.encode_ordinary(text), tokenizer.encoding.encode(text, allowed_special="all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "MANY_BLANKS", re.compile(tokenizers.BLANK + "{2,}"))
        assert (tokenizer.encode(text), tokenizer.encode_with_special(text)) == plain


def test_more_blanks_in_a_row_than_tiktoken_can_read_are_read(tokenizer, fast):
    text = "the red" + " " * 1_000_001 + "kite"
    ids = fast(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_batch([text, "a"]) == [ids, tokenizer.encode("a")]
    assert tokenizer.encode_with_special(text + "<|end|>") == [*ids, tokenizer.eos_id]


def test_a_text_that_a_published_encoding_cannot_read_is_refused_in_one_line(tokenizer):
    other = Tokenizer(tokenizer.ranks, r"\p{L}+|\s+(?!\S)|\s", tokenizer.specials)
    for read in (other.encode, other.encode_with_special, lambda text: other.encode_batch([text])):
        with pytest.raises(InputError, match=r"a text of 1000001 characters cannot be split .*shorten"):
            read(" " * 1_000_000 + "a")
    assert other.encode("a  b")


@settings(max_examples=100)
@given(texts, texts)
def test_a_conversation_is_framed_by_exactly_its_own_special_tokens(tokenizer, question, answer):
    prompt = tokenizer.encode_prompt([{"role": "user", "content": question}])
    completion = tokenizer.encode_completion(answer)
    assert tokenizer.encode(question) == prompt[1 : 1 + len(tokenizer.encode(question))]
    assert completion == [*tokenizer.encode(answer), tokenizer.eos_id]
    assert completion.count(tokenizer.eos_id) == 1


def test_chat_template_gives_our_ids_and_marks_the_answers(tokenizer, fast):
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "The cat."},
        {"role": "user", "content": "More"},
    ]
    ours = tokenizer.encode_prompt(messages)
    theirs = fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert theirs == ours
    marked = fast.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    chosen = [
        token for token, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark
    ]
    assert chosen == tokenizer.encode_completion("The cat.")


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, Tokenizer)
    text = "The 猫 isn't <|end|> here 😀"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.encode_prompt(text) == tokenizer.encode_prompt(text)
    assert (loaded.vocab_size, loaded.eos_id, loaded.stop_ids) == (
        tokenizer.vocab_size,
        tokenizer.eos_id,
        tokenizer.stop_ids,
    )


@pytest.mark.parametrize("size", [100, 10**9, 10**20])
def test_a_vocabulary_of_a_size_that_none_has_is_refused(size):
    with pytest.raises(InputError, match=f"vocab_size is {size}"):
        train_tokenizer(["a"], size)


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '{"pattern": null, "special_tokens": {}}', '{"pattern": "x", "special_tokens": []}'],
)
def test_a_damaged_encoding_is_named_in_one_line(content, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "encoding.json").write_text(content)
    with pytest.raises(InputError, match="the tokenizer's files are damaged") as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["ours", "bytes", "Llama 2", "Metaspace"])
def test_the_bytes_of_tokens_are_those_of_the_text(kind, tokenizer):
    of_kind = tokenizer if kind == "ours" else any_tokenizer(chat_templates.tokenizer(kind, None))
    text = " The kite é日 🙂\n\0 � <0x41> Ã"
    assert b"".join(map(of_kind.token_bytes, of_kind.encode_continuation(text))) == text.encode()
    end = of_kind.decode([of_kind.eos_id], keep_special=True)
    assert of_kind.token_bytes(of_kind.eos_id) == end.encode() and end


def test_published_encoding_without_its_file_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="TIKTOKEN_CACHE_DIR") as caught:
        published_tokenizer("p50k_base")
    assert "\n" not in str(caught.value)


CACHE = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or Path(__file__).parents[4] / "shared/data/tiktoken_cache")


def check_both_sides(tokenizer, folder):
    """That Hugging Face's tokenizer, saved and loaded, has our numbers, and only ours."""
    tokenizer.save(folder)
    fast = AutoTokenizer.from_pretrained(folder)
    assert {name: fast.convert_tokens_to_ids(name) for name in tokenizer.specials} == tokenizer.specials
    assert len(fast) == tokenizer.vocab_size
    text = "Hello  12 boats"
    whole = fast.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    assert whole["input_ids"] == tokenizer.encode_prompt(text)
    for name in tokenizer.specials:
        ids = fast(f"a {name}{name} b", split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(f"a {name}{name} b") and not {*ids} & {*tokenizer.specials.values()}
    everything = range(tokenizer.vocab_size + 3)
    assert (
        tokenizer.decode(everything, keep_special=True) and tokenizer.decode(sorted(tokenizer.unused)) == ""
    )
    assert not any(map(tokenizer.token_bytes, tokenizer.unused))


@pytest.mark.skipif(not CACHE.is_dir(), reason="no cached published encodings")
@pytest.mark.parametrize(
    "name",
    ["gpt2", "r50k_base", "p50k_base", "cl100k_base", pytest.param("o200k_base", marks=pytest.mark.slow)],
)
def test_a_published_encoding_has_the_same_numbers_on_both_sides(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    check_both_sides(published_tokenizer(name), tmp_path)


@pytest.mark.parametrize("end", [-5, 1], ids=["among the ranks", "behind a gap"])
def test_numbers_with_gaps_are_the_same_on_both_sides(tokenizer, end, tmp_path, monkeypatch):
    """As p50k_base has its end of text among its ranks, and cl100k_base behind a number that no token has."""
    place = len(tokenizer.ranks) + end
    ranks = {token: rank + (rank >= place) for token, rank in tokenizer.ranks.items()}
    published = tiktoken.Encoding(
        "made", pat_str=tokenizer.pattern, mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": place, "<|endofprompt|>": len(ranks) + 20},
    )  # fmt: skip
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: published)
    check_both_sides(published_tokenizer("made"), tmp_path)


@pytest.mark.skipif(not CACHE.is_dir(), reason="no cached published encodings")
def test_published_gpt2_is_gpt2(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    tokenizer = published_tokenizer("gpt2")
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.document_end_id == 50256
    assert tokenizer.fast()("Hello world")["input_ids"] == [15496, 995]


GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def foreign(tokenizer, tmp_path):
    """As Gemma has it: documents end otherwise than turns, the template begins with a first token, generation stops at three."""
    hub = tokenizer.fast()
    hub.eos_token, hub.chat_template = "<|endoftext|>", GEMMA
    hub.save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[hub.eos_token_id, 7]).save_pretrained(tmp_path)
    return load_tokenizer(tmp_path)


def test_a_foreign_answer_is_closed_by_what_closes_turns_in_its_own_template(foreign, tokenizer):
    end, document_end = (tokenizer.specials[token] for token in ("<|end|>", "<|endoftext|>"))
    assert foreign.encode_completion("Blue") == [*tokenizer.encode("Blue"), end]
    assert (foreign.eos_id, foreign.document_end_id) == (end, document_end)
    assert foreign.stop_ids == {end, document_end, 7}
    whole = foreign.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hm"}], add_generation_prompt=True
    )
    assert foreign.encode_prompt("Hm") == whole["input_ids"]


def test_a_conversation_that_the_models_template_refuses_is_an_error_of_one_line(foreign):
    with pytest.raises(InputError, match="refuses a conversation of system, user: System role not supported"):
        foreign.encode_prompt([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hm"}])


@pytest.mark.parametrize("begins", [True, False])
def test_without_a_template_a_prompt_begins_as_the_tokenizer_begins_texts(foreign, begins):
    hub = foreign.tokenizer
    hub.chat_template = None
    if begins:
        first = [("<|endoftext|>", hub.bos_token_id)]
        hub.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=first
        )
    foreign = ForeignTokenizer(hub)
    lines = foreign.encode("User: Hm\nAssistant:")
    assert foreign.encode_prompt("Hm") == ([hub.bos_token_id] if begins else []) + lines


def test_end_tokens_that_only_the_models_settings_name_count_too(tmp_path, tokenizer):
    """Folders without generation_config.json: a model in memory ends answers by config.json's list."""
    ends = [tokenizer.eos_id, 7, 11]
    tokenizer.fast().save_pretrained(tmp_path)
    GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_id=ends).save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    assert found.stop_ids >= set(ends)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert any_tokenizer(tokenizer.fast(), model).stop_ids == found.stop_ids


def test_a_tokenizer_without_an_end_token_is_refused_in_python_too(tokenizer):
    hub = tokenizer.fast()
    hub.eos_token = None
    with pytest.raises(InputError, match="its tokenizer has no end token; set eos_token"):
        any_tokenizer(hub)
