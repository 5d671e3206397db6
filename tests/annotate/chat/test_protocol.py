"""Whose fault an error is, and which parameter's, as OpenAI's protocol tells it."""

import pytest

from annotate.chat.api.protocol import Refused, refusal
from annotate.chat.checkpoints import Checkpoints
from rlhf.errors import EngineError, InputError
from rlhf.serving.completions import Failed, Request
from rlhf.serving.engine_process import raised
from rlhf.store import Store


def told(error, prompt="messages"):
    refused = refusal(error, prompt)
    return refused.status, refused.param, refused.code


def from_the_engine(message, **more):
    """The error of a request that the engine could not take up."""
    return raised(Failed.of_request(InputError(message, **more)))


def test_a_fault_of_the_text_names_the_parameter_that_holds_the_text():
    refuses = from_the_engine(
        "the model's chat template refuses a conversation of system, user: no system role"
    )
    assert told(refuses) == (400, "messages", "invalid_value")
    assert told(from_the_engine("model: a word that stands first says nothing")) == (400, "messages", "invalid_value")  # fmt: skip
    assert told(from_the_engine("prompt has token 9", param="prompt"), "tokens") == (400, "tokens", "invalid_value")  # fmt: skip
    long = from_the_engine("the prompt is too long", code="context_length_exceeded")
    assert told(long, "prompt") == (400, "prompt", "context_length_exceeded")


def test_a_parameter_has_the_protocols_name():
    with pytest.raises(InputError) as refused:
        Request(prompt="a", max_new_tokens=0)
    assert told(refused.value) == (400, "max_tokens", "invalid_value")
    assert "max_tokens is 0" in str(refusal(refused.value))


def test_a_fault_of_the_server_is_a_500_and_a_missing_model_a_404(tmp_path):
    broken = raised(Failed("/models/ppo: no model could be loaded: the context is cut"))
    assert type(broken) is EngineError and told(broken) == (500, None, None)
    with pytest.raises(InputError) as missing:
        Checkpoints(Store(tmp_path)).named("none")
    assert told(missing.value) == (404, "model", "model_not_found")


def test_a_refusal_is_one_line_whatever_it_names():
    """Found by `make fuzz WHAT=bodies`: an unknown parameter called by a line end."""
    error = Refused(400, "\n is\nnot known here", "\n", "unknown_parameter").body()["error"]
    assert error["message"] == "is not known here" and error["param"] == "\n"
