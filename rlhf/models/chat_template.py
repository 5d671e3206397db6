"""A conversation as a model's own chat template writes it, in tokens; nothing is assumed of what the template does.

It may move, merge, trim or drop messages: only its whole text is asked for, with and without the answer. Texts from
people never become special tokens: where one of those stands in a text it is marked before, and encoded apart after.
Marks are characters that the template has not; where a text has them, it is written otherwise until it is encoded.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data import Message
from rlhf.errors import InputError, first_line

PRIVATE = range(0xE000, 0xF900)  # characters that mean nothing to anybody else
ANCHORS = ("\n", ".", "a")
ANSWER = "an answer that no template has in itself"


class ChatTemplate:
    """A tokenizer's chat template with the arguments it is to get, such as enable_thinking."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        self.tokenizer, self.arguments = tokenizer, dict(arguments)
        unused = (chr(code) for code in PRIVATE if chr(code) not in f"{tokenizer.chat_template}")
        self.open, self.close, self.escape = marks = [next(unused) for _ in range(3)]
        self.marked_part = re.compile(f"{self.open}(.*?){self.close}", re.DOTALL)
        self.mark, self.escaped = re.compile(f"[{''.join(marks)}]"), re.compile(f"{self.escape}([0-2])")
        self.marks = marks
        specials = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted(specials, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, names))) if names else None

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that `apply_chat_template` gives with the generation prompt."""
        return self._tokens(self._render(messages, True))

    def encode_answer(self, messages: Sequence[Message], answer: str, end_id: int) -> list[int]:
        """The tokens behind `encode_prompt(messages)` with which the template writes the answer, closed by end_id.

        What stands before the answer in its turn, such as a space or an empty thought, belongs to it; what stands
        behind end_id does not. An answer that the template would write behind another prompt, or not at all, is its
        own characters.
        """
        asked = self._render(messages, True)
        whole = self._render([*messages, {"role": "assistant", "content": answer}], False)
        kept = self._marked(answer).strip()
        if not whole.startswith(
            asked
        ):  # an earlier part moved: the last question and what follows it are enough
            asked = asked[max(0, asked.rfind(self._marked(messages[-1]["content"]).strip())) :]
            whole = whole[max(0, whole.rfind(asked)) :]
        if not whole.startswith(asked) or kept not in whole[len(asked) :]:
            return [*self.continuation(answer), end_id]
        said = self._behind(asked, whole)
        if end_id in said:
            return said[: said.index(end_id) + 1]
        return [*self._behind(asked, whole[: whole.rindex(kept) + len(kept)]), end_id]

    def behind_answer(self) -> list[int]:
        """The tokens that the template writes behind an answer; none where it shows no answer."""
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
        return self._encode(self._render(turn, False).partition(ANSWER)[2])

    def continuation(self, text: str) -> list[int]:
        """Tokens of plain text that goes on where other text ended: no space is put before it."""
        return self._continue(text, split_special_tokens=True)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        marked = [{**message, "content": self._marked(message["content"])} for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    marked, tokenize=False, add_generation_prompt=add_generation_prompt, **self.arguments
                )
            )
        except Exception as problem:  # whatever a template does, a division by zero too
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"the model's chat template refuses a conversation of {roles}: {first_line(problem)[:300]}"
            ) from None

    def _marked(self, text: str) -> str:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = self.mark.sub(lambda found: f"{self.escape}{self.marks.index(found[0])}", text)
        return (
            self.special.sub(lambda found: f"{self.open}{found[0]}{self.close}", text)
            if self.special
            else text
        )

    def _unmarked(self, text: str) -> str:
        """What was given: without marks that the template cut in two, and with the text's own characters."""
        text = text.replace(self.open, "").replace(self.close, "")
        return self.escaped.sub(lambda found: self.marks[int(found[1])], text)

    def _behind(self, asked: str, whole: str) -> list[int]:
        """Tokens of what `whole` has behind `asked`; the whole's own unless one of them reaches over the border."""
        before, tokens = self._tokens(asked), self._tokens(whole)
        if tokens[: len(before)] == before:
            return tokens[len(before) :]
        return self._tokens(whole[len(asked) :], is_begin=False)

    def _tokens(self, rendered: str, is_begin: bool = True) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(map(self._unmarked, self.marked_part.split(rendered))):
            is_plain = place % 2 == 1
            begins = is_begin and place == 0
            ids += self._encode(part) if begins else self._continue(part, split_special_tokens=is_plain)
        return ids

    def _continue(self, text: str, **how: Any) -> list[int]:
        """Tokens without the space that some tokenizers put before every text: behind an anchor they put none."""
        for anchor in ANCHORS:
            before, both = self._encode(anchor, **how), self._encode(anchor + text, **how)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self._encode(text, **how)

    def _encode(self, text: str, **how: Any) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, **how)["input_ids"] if text else []


def parse_arguments(text: str) -> dict[str, Any]:
    """Template arguments from NAME=VALUE,…; a value is JSON (true, 3) or else text. Raises InputError for other text."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InputError(f"template_kwargs: {part!r} is not NAME=VALUE, such as enable_thinking=false")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value.strip()
    return found
