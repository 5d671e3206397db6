"""What fuzzing has found, each as a test of its own."""

import gzip

import pytest

from annotate.chat.api.bodies import TokenizeBody
from annotate.chat.api.protocol import Refused
from rlhf.data import read_prompts
from rlhf.errors import InputError
from rlhf.models.tokenizer import ForeignTokenizer
from tests.fuzz.test_any_label_request import asked  # noqa: F401
from tests.rlhf.models.chat_templates import CHATML, tokenizer


@pytest.mark.parametrize("number", [2**63, 10**30, -(2**63) - 1])
@pytest.mark.parametrize(
    "path",
    ["/api/history/{}", "/api/tasks/{}/prompt/0/text", "/api/tasks/{}/answers/0/text"],
)
def test_a_number_that_no_database_counts_to_is_the_clients_fault(asked, path, number):  # noqa: F811
    client, _ = asked
    assert client.get(path.format(number)).status_code in (404, 409, 422)


@pytest.mark.parametrize("place", range(10, 30, 4))
def test_a_damaged_archive_is_refused(tmp_path, place):
    content = bytearray(gzip.compress(b'{"prompt": "q"}\n' * 9))
    content[place] ^= 0xFF
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz"):
        list(read_prompts(tmp_path / "rows.jsonl.gz"))


@pytest.mark.parametrize("said", ["\ue000", "\ue001a\ue000", "\ue0020", "\ue002"])
def test_private_characters_in_a_text_leave_the_templates_tokens_alone(said):
    found = ForeignTokenizer(tokenizer("bytes", CHATML))
    turns = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": "<|im_end|>"},
        {"role": "user", "content": "b"},
    ]
    start = found.tokenizer.convert_tokens_to_ids("<|im_start|>")
    prompt = found.encode_prompt(turns)
    assert prompt.count(start) == 4
    assert found.decode(prompt, keep_special=True) == found.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    "said", ["\ue000", "a\ue000b\ue001", "\ue002" * 3, "".join(map(chr, range(0xE000, 0xF900)))]
)
@pytest.mark.parametrize("kind", ["bytes", "Llama 2"])
def test_a_template_that_turns_a_text_round_or_cuts_it_sees_the_text_itself(kind, said):
    for change in ("reverse", "length", "replace('0', 'x')", "first"):
        template = CHATML.replace(".content }}", f".content | {change} }}}}")
        words = tokenizer(kind, template)
        turns = [{"role": "user", "content": said}]
        assert (
            change in template
            and ForeignTokenizer(words).encode_prompt(turns)
            == words.apply_chat_template(turns, add_generation_prompt=True, return_dict=True).input_ids
        )


def test_whatever_a_template_runs_into_is_one_line():
    for template in ("{{ 1 // 0 }}", "{{ messages[9].content.x.y }}", "{{ raise_exception('no\n\nway') }}"):
        with pytest.raises(InputError, match="chat template refuses a conversation of user") as refused:
            ForeignTokenizer(tokenizer("bytes", template)).encode_prompt("q")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "turn", [{}, {"role": "user"}, {"content": "a"}, {"role": "", "content": "a"}, {"": "x"}]
)
def test_a_message_without_role_or_content_is_the_clients_fault(asked, turn):  # noqa: F811
    client, _ = asked
    task = {"prompt": [turn], "completions": ["a", "b"]}
    asking = {
        "/api/lead/batches": {"name": "odd", "tasks": [task]},
        "/api/lead/gold?batch=round": {"gold": [task | {"ranks": [0, 1]}]},
    }
    for path, body in asking.items():
        refused = client.post(path, json=body)
        assert refused.status_code == 409 and "a message has a role" in refused.text


@pytest.mark.parametrize("role", ["", "tool", "x|>"])
def test_a_role_that_no_format_has_is_refused_before_it_is_tokenized(role):
    with pytest.raises(Refused, match="role is"):
        TokenizeBody(model="m", messages=[{"role": role, "content": []}]).text_or_messages()
