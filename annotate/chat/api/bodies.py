"""What a client may ask of the API, and what the engine makes of it.

A field that is not here is refused, since its answer would be another than the client believes. The few that change no
answer are listed in the answer's header instead.
"""

import json
import secrets
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from annotate.chat.api.protocol import Refused, refusal
from rlhf.errors import InputError
from rlhf.serving.completions import Request as Wanted
from rlhf.serving.completions import check_messages

MAX_CHOICES = 8
MAX_PROMPTS = 128
IGNORED_HEADER = "X-Ignored-Fields"
# Bookkeeping of OpenAI's own service, and what chat programs keep beside a message.
CHANGES_NOTHING = {
    *(
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    ),
    *(
        "parallel_tool_calls",
        "name",
        "refusal",
        "annotations",
        "options",
        "reasoning_content",
        "id",
        "timestamp",
        "include_obfuscation",
    ),
}
Item = TypeVar("Item")
# Up to the first item that is wrong: of a list of a million wrong ones each would take a kilobyte and the loop's time.
Listed = Annotated[list[Item], Field(fail_fast=True)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Tokens = Listed[Token]
BIAS: TypeAdapter[tuple[int, float]] = TypeAdapter(tuple[Token, float])


def _biases(given: dict[str, Any]) -> dict[int, float]:
    """Tokens and what is added to their logits, up to the first that is wrong, as in a list."""
    found: dict[int, float] = {}
    for each in given.items():
        try:
            token, bias = BIAS.validate_python(each)
        except ValidationError as error:
            [first, *_] = error.errors(include_url=False)
            raise PydanticCustomError("bias", "{why}", {"why": f"{each[0][:20]!r}: {first['msg']}"}) from None
        found[token] = bias
    return found


class Strict(BaseModel):
    """A body or a part of one; fields beside those of the class are refused, or known to change nothing."""

    model_config = ConfigDict(extra="allow")
    read_from: ClassVar = "messages"  # the field that holds what the model reads

    def ignored(self, where: str = "") -> list[str]:
        """Fields that were given and change nothing. Raises Refused for one that is not known."""
        given = [name for name, value in (self.model_extra or {}).items() if value is not None]
        for name in given:
            if name not in CHANGES_NOTHING:
                raise Refused(400, f"{where}{name} is not known here", f"{where}{name}", "unknown_parameter")
        return [f"{where}{name}" for name in given]


class Turn(Strict):
    role: str
    content: str | Listed[dict[str, Any]]

    def message(self) -> dict[str, str]:
        """The turn as our messages are. Raises Refused for content that is not text."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise Refused(400, "content: these models read text only", "messages")
        return {"role": role, "content": "".join(part["text"] for part in self.content)}


class StreamOptions(Strict):
    include_usage: bool | None = False


class Sampled(Strict):
    """What both kinds of completion take."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, Any], AfterValidator(_biases)] | None = None
    seed: int | None = None
    stop: str | Listed[str] | None = None
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def ignored(self, where: str = "") -> list[str]:
        options = self.stream_options.ignored("stream_options.") if self.stream_options else []
        return sorted([*super().ignored(where), *options])

    def sampling(self, owner: str) -> dict[str, Any]:
        """The fields of the engine's request that both kinds share; what is not given is OpenAI's default."""
        defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        defaults |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
        given = {name: getattr(self, name) for name in defaults}
        chosen = {name: default if given[name] is None else given[name] for name, default in defaults.items()}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        seed = secrets.randbits(48) if self.seed is None else self.seed
        shared = {"seed": seed, "stop": stop, "logit_bias": self.logit_bias or {}, "owner": owner}
        return {**chosen, **shared, "max_new_tokens": self.max_tokens}

    def choices(self, wanted: Wanted) -> list[Wanted]:
        """One request for each of the n choices, with seeds in a row."""
        return [Wanted(**{**vars(wanted), "seed": (wanted.seed + i) % (1 << 64)}) for i in range(self.n or 1)]

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse(self, *names: str) -> None:
        """Raises Refused for a field that would change the answer and is not offered."""
        for name in names:
            if getattr(self, name):
                raise Refused(400, f"{name} is not offered here", name, "unsupported_parameter")


class ChatBody(Sampled):
    """/v1/chat/completions. The last group is refused unless it asks for nothing."""

    messages: Listed[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool | None = False
    add_generation_prompt: bool | None = None
    response_format: dict[str, Any] | None = None

    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None

    def ignored(self, where: str = "") -> list[str]:
        turns = [name for turn in self.messages for name in turn.ignored("messages.")]
        return sorted({*super().ignored(where), *turns})

    def wanted(self, owner: str) -> list[Wanted]:
        """The engine's requests. Raises Refused for what is not offered, InputError for what is out of range."""
        self.refuse("tools", "functions")
        if self.top_logprobs and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs", "top_logprobs", "invalid_value")
        continues = bool(self.continue_final_message)
        if self.tool_choice not in (None, "none", "auto"):
            raise Refused(400, "tool_choice is not offered here", "tool_choice", "unsupported_parameter")
        if self.add_generation_prompt not in (None, not continues):
            raise Refused(
                400,
                "add_generation_prompt is the opposite of continue_final_message",
                "add_generation_prompt",
            )
        asked = self.sampling(owner)
        if self.max_completion_tokens is not None:
            asked["max_new_tokens"] = self.max_completion_tokens
        return self.choices(
            Wanted(
                messages=tuple(turn.message() for turn in self.messages),
                continue_last=continues,
                json_schema=self._json_schema(),
                alternatives=max(1, self.top_logprobs or 0) if self.logprobs else 0,
                **asked,
            )
        )

    def _json_schema(self) -> str | None:
        """The schema that response_format asks for, as JSON. Raises Refused for another kind of format."""
        given = self.response_format or {"type": "text"}
        kind, named = given.get("type"), given.get("json_schema")
        if kind == "text":
            return None
        schema = given.get("schema", {"type": "object"}) if kind == "json_object" else None
        if kind == "json_schema" and isinstance(named, dict):
            schema = named.get("schema")
        if not isinstance(schema, dict):
            known = "text, json_object, or json_schema with json_schema.schema"
            raise Refused(400, f"response_format: the type is {known}", "response_format", "invalid_value")
        return json.dumps(schema)


class TextBody(Sampled):
    """/v1/completions: a text, tokens, or a list of either, read as they are. The last group is refused."""

    read_from: ClassVar = "prompt"
    prompt: str | Tokens | Listed[str] | Listed[Tokens] = "<|endoftext|>"
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = False

    best_of: int | None = None
    suffix: str | None = None

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt as a text or as tokens. Raises Refused for none at all, or too many."""
        if "prompt" not in self.model_fields_set:
            return [""]
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if not 0 < len(given) <= MAX_PROMPTS and not (given and isinstance(given[0], int)):
            raise Refused(400, f"prompt is a list of {len(given)}; give 1 to {MAX_PROMPTS}", "prompt")
        if isinstance(given[0], int):
            return [tuple(given)]  # type: ignore[arg-type]
        return [each if isinstance(each, str) else tuple(each) for each in given]  # type: ignore[arg-type]

    @property
    def answers(self) -> bool:
        """Whether any token is to be said; max_tokens 0 with echo only scores the prompt."""
        return self.max_tokens != 0

    def wanted(self, owner: str) -> list[Wanted]:
        """The engine's requests, n for each prompt. Raises Refused, InputError."""
        self.refuse("suffix")
        if self.best_of not in (None, self.n):
            raise Refused(400, "best_of is not offered here", "best_of", "unsupported_parameter")
        if not self.answers and (not self.echo or self.stream):
            raise Refused(
                400, "max_tokens is 0; give at least 1, or echo without stream", "max_tokens", "invalid_value"
            )
        asked = self.sampling(owner) | ({} if self.answers else {"max_new_tokens": 1})
        alternatives = 0 if self.logprobs is None else max(1, self.logprobs)
        return [
            each
            for prompt in self.prompts()
            for each in self.choices(Wanted(prompt=prompt, alternatives=alternatives, **asked))
        ]


class TokenizeBody(Strict):
    """/tokenize: the tokens of a text, or of a conversation with the beginning of its answer."""

    read_from: ClassVar = "prompt"
    model: str
    prompt: str | None = None
    messages: Listed[Turn] | None = None
    return_token_strs: bool | None = False

    def text_or_messages(self) -> str | list[dict[str, str]]:
        """What to tokenize. Raises Refused for none or both, and for a role that no format has."""
        if (self.prompt is None) == (not self.messages):
            raise Refused(400, "give prompt or messages", "prompt", "invalid_value")
        if self.prompt is not None:
            return self.prompt
        turns = [turn.message() for turn in self.messages or []]
        try:
            check_messages(turns)
        except InputError as error:
            raise refusal(error) from None
        return turns


class DetokenizeBody(Strict):
    """/detokenize: the text of tokens."""

    read_from: ClassVar = "tokens"
    model: str
    tokens: Tokens
