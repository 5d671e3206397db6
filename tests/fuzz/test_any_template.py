"""Whatever a chat template does: the tokens that transformers gives, or one line that refuses it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import InputError
from rlhf.models.tokenizer import ForeignTokenizer
from tests.fuzz.examples import TEXTS, examples
from tests.rlhf.models.chat_templates import FAMILIES, SPECIALS, tokenizer

TOKENIZERS = {kind: tokenizer(kind, None) for kind in ("bytes", "Llama 2", "Metaspace", "Unigram")}
PARTS = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\n|[^{\n]+|\{", re.DOTALL)
ODD = (
    "\r\n", "{{ raise_exception('no system text') }}", "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}",
    "{{ 1 // 0 }}", "{{ messages[9].content }}", "{{ none.x }}", "{{ messages | tojson }}", "{{ m.tool_calls[0] }}",
    "{% generation %}", "{% endgeneration %}", "{{ strftime_now('%Y') }}", "{{ bos_token }}", "{{ eos_token }}", "{{ missing.x.y }}",
    "{{ messages[0].content[1:3] }}", "{{ m.content[:2] }}", "{{ m.content | upper }}", "{{ m.content | reverse }}",
    "{{ m.content | replace('e', '') }}", "{{ m.content.split('a')[-1] }}", "{{ m.content | length }}", "{{ m.content | int }}",
    "{{ messages[-1].content * 3 }}", "{{ '%d' % m.content }}", "{{ m.content.encode() }}", "{{ range(3) | list }}", "\ue000", "\ue001",
    "{{ m.content | trim }}", "{% for m in messages %}", "{% endfor %}", "{% if add_generation_prompt %}", "{% endif %}", "{%- endif -%}",
    "{{ lipsum() }}", "{{ cycler }}", "{{ self }}", "{{ {}['x'] }}", "{{ [][1] }}", "{{ 'a'.join(1) }}", "{% set messages = [] %}",
    "{% break %}", "{{ messages.append(1) }}", "{{ 2 ** 4000 }}", "{{ m.content.format(1) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
)  # fmt: skip


@st.composite
def templates(draw):
    """A family's template with some of its parts changed."""
    parts = PARTS.findall(draw(st.sampled_from(sorted(FAMILIES.values()))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(parts) - 1)))
        how = draw(st.sampled_from(["left out", "twice", "odd", "odd", "odd"]))
        new = {"left out": [], "twice": parts[place : place + 1] * 2}.get(how)
        parts[place : place + (how != "odd")] = new if new is not None else [draw(st.sampled_from(ODD))]
    return "".join(parts)


SPOKEN = TEXTS | st.sampled_from(
    [*SPECIALS, "The red kite", "\ue000", "a\ue001b", "\ue002", "</think>", "{{ 1 // 0 }}"]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.lists(SPOKEN, max_size=3).map("".join),
        }
    ),
    min_size=1,
    max_size=4,
)


def plain(messages):
    """Whether no special token stands in any text, so that transformers may say what the tokens are."""
    return not any(special in message["content"] for message in messages for special in SPECIALS)


def check(kind, template, messages, answer):
    words = TOKENIZERS[kind]
    words.chat_template = template
    try:
        found = ForeignTokenizer(words)
        prompt = found.encode_prompt(messages)
        said = found.encode_completion(answer, messages)
    except InputError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 1000
        return
    assert all(0 <= token < found.vocab_size for token in prompt + said)
    assert said[-1] == found.eos_id
    valid = not any("\ud800" <= letter <= "\udfff" for message in messages for letter in message["content"])
    if valid and plain(messages):
        theirs, again = (
            words.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            for _ in range(2)
        )
        assert prompt == theirs or theirs != again  # lipsum() says something else each time


@examples(150)
@given(st.sampled_from(sorted(TOKENIZERS)), templates(), MESSAGES, SPOKEN)
def test_any_template_gives_its_tokens_or_is_refused(kind, template, messages, answer):
    check(kind, template, messages, answer)


@examples(60)
@given(st.sampled_from(sorted(TOKENIZERS)), st.sampled_from(sorted(FAMILIES)), MESSAGES, SPOKEN)
def test_any_text_stays_text_in_a_template_that_works(kind, family, messages, answer):
    check(kind, FAMILIES[family], messages, answer)
