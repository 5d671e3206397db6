"""A body that is wrong a hundred thousand times is refused for the first fault, and costs what that costs."""

import json
import tracemalloc

import pytest
from pydantic import ValidationError

from annotate.app.lead.api import NewBatchIn
from annotate.app.payloads import AnswerIn
from annotate.chat.api.bodies import ChatBody, DetokenizeBody, TextBody
from annotate.chat.api.protocol import refusal

MANY = 100_000
USER = {"role": "user"}
WRONG = {
    "prompt of tokens": (TextBody, {"model": "ppo", "prompt": [*[1] * MANY, "x"]}, "prompt"),
    "prompts": (TextBody, {"model": "ppo", "prompt": [*[[1]] * MANY, "x"]}, "prompt"),
    "messages": (ChatBody, {"model": "ppo", "messages": [1] * MANY}, "messages.0"),
    "content": (ChatBody, {"model": "ppo", "messages": [USER | {"content": [1] * MANY}]}, "messages.0"),
    "stop": (TextBody, {"model": "ppo", "stop": [1] * MANY}, "stop"),
    "logit_bias": (TextBody, {"model": "ppo", "logit_bias": dict.fromkeys(map("x{}".format, range(MANY)), 1)}, "logit_bias"),
    "tokens": (DetokenizeBody, {"model": "ppo", "tokens": [-1] * MANY}, "tokens.0"),
    "tasks": (NewBatchIn, {"name": "a", "tasks": [1] * MANY}, "tasks.0"),
    "a task's prompt": (NewBatchIn, {"name": "a", "tasks": [{"prompt": [1] * MANY}]}, "tasks.0"),
    "flags": (AnswerIn, {"client_id": "a", "kind": "rank", "flags": [[1] * MANY]}, "flags.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_only_the_first_fault_is_told(name):
    kind, body, param = WRONG[name]
    raw = json.dumps(body).encode()
    tracemalloc.start()
    with pytest.raises(ValidationError) as wrong:
        kind.model_validate_json(raw)
    refused = refusal(wrong.value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert wrong.value.error_count() < 8 and peak < 40 * len(raw)
    assert refused.status == 400 and refused.param.startswith(param) and "\n" not in str(refused)


def test_a_bias_is_read_by_the_number_of_its_token():
    asked = TextBody.model_validate_json('{"model": "ppo", "logit_bias": {"5": 1, "70": -2.5}}')
    assert asked.wanted("ann")[0].logit_bias == {5: 1.0, 70: -2.5}
    with pytest.raises(ValidationError) as wrong:
        TextBody.model_validate_json('{"model": "ppo", "logit_bias": {"-5": 1}}')
    assert "'-5'" in str(refusal(wrong.value))
