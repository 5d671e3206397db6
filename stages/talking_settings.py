"""The settings of chat and serve."""

from dataclasses import dataclass
from typing import Any

from rlhf.serving.completions import RANGES
from rlhf.settings import COLDEST, Settings
from stages.fields import seeding, setting

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
PRECISION_HELP = "of the weights; auto: bfloat16 for models of 50M and more where the hardware multiplies it"


def drawn(name: str, default: Any, help: str, **more: Any) -> Any:
    """A setting of how an answer is drawn, in the range that an answer may be asked for."""
    low, high, _ = RANGES[name]
    return setting(default, help, at_least=low, at_most=high, **more)


@dataclass(frozen=True, kw_only=True)
class ChatSettings(Settings):
    """Talking to a checkpoint."""

    policy: str = setting("ppo", "checkpoint to talk to")
    template_kwargs: str = setting(
        "", "what its chat template is given, such as enable_thinking=false", common=False
    )
    system: str | None = setting(None, "system text in front of the conversation")
    temperature: float = drawn(
        "temperature", 0.7, "sampling temperature, 0 for greedy", zero_or_at_least=COLDEST
    )
    top_p: float = setting(0.95, "nucleus mass", above=0, at_most=1)
    top_k: int = setting(0, "draw from the k most probable tokens (0: from all)", at_least=0, flag=False)
    min_p: float = drawn(
        "min_p", 0.0, "draw no token less probable than this share of the likeliest", flag=False
    )
    repetition_penalty: float = drawn(
        "repetition_penalty", 1.0, "makes tokens said before less likely (1: off)", flag=False
    )
    max_new_tokens: int | None = drawn(
        "max_new_tokens", None, "longest answer in tokens (default: until the model or the context ends it)"
    )
    seed: int = seeding()
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
    offload: bool = setting(
        False,
        "read each block from its file when its turn comes: for a model larger than memory",
        common=False,
    )
    web: bool = setting(False, "serve the chat page and the API instead")
    host: str = setting(
        "127.0.0.1", "where --web listens; others than this machine's need accounts", flag=False
    )
    port: int = setting(7862, "port of --web (0: a free one)", at_least=0, at_most=65_535)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Settings):
    """Every checkpoint of the store as an OpenAI-compatible server."""

    policy: str | None = setting(None, "folder or hub id to serve besides the store's checkpoints")
    template_kwargs: str = setting(
        "", "what its chat template is given, such as enable_thinking=false", common=False
    )
    host: str = setting("127.0.0.1", "address to listen on; others than this machine's need accounts")
    port: int = setting(8000, "port to listen on (0: a free one)", at_least=0, at_most=65_535)
    answers_at_once: int = setting(16, "answers that one model writes at a time", at_least=1)
    max_waiting: int = setting(64, "requests in line for one model before more are turned away", at_least=0)
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
