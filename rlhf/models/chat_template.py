"""A conversation as a model's own chat template writes it, in tokens; nothing is assumed of what the template does.

It may move, merge, trim or drop messages: only its whole text is asked for, with and without the answer. Texts from
people never become special tokens: where one of those stands in a text it is marked before, and encoded apart after.
Marks are characters that neither the template nor the conversation has, so that a template sees the texts as they are.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data import Message
from rlhf.data.rows import json_within
from rlhf.errors import InputError, first_line

# Characters that mean nothing to anybody else; more than a text that is read at once has different ones.
PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
ANCHORS = ("\n", ".", "a")
OURS = {"conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message"}
ANSWER = "an answer that no template has in itself"


def valid(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no encoding has."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class ChatTemplate:
    """A tokenizer's chat template with the arguments it is to get, such as enable_thinking."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        self.tokenizer, self.arguments = tokenizer, dict(arguments)
        specials = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted(specials, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, names))) if names else None
        made = (token for name in names for token in self._plain(name))
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        # Special tokens that the model makes of characters, too: they stand among Unigram's pieces, as its best ones.
        self.made = added.intersection(made) - {tokenizer.unk_token_id}

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that `apply_chat_template` gives with the generation prompt."""
        marks = self._marks(messages)
        return self._tokens(self._render(messages, True, marks), marks)

    def encode_answer(self, messages: Sequence[Message], answer: str, end_id: int) -> list[int]:
        """The tokens behind `encode_prompt(messages)` with which the template writes the answer, closed by end_id.

        What stands before the answer in its turn, such as a space or an empty thought, belongs to it; what stands
        behind end_id does not. An answer that the template would write behind another prompt, or not at all, is its
        own characters.
        """
        answered: list[Message] = [*messages, {"role": "assistant", "content": answer}]
        marks = self._marks(answered)
        asked, whole = self._render(messages, True, marks), self._render(answered, False, marks)
        kept = self._marked(answer, marks).strip()
        if not whole.startswith(
            asked
        ):  # an earlier part moved: the last question and what follows it are enough
            asked = asked[max(0, asked.rfind(self._marked(messages[-1]["content"], marks).strip())) :]
            whole = whole[max(0, whole.rfind(asked)) :]
        if not whole.startswith(asked) or kept not in whole[len(asked) :]:
            return [*self.continuation(answer), end_id]
        said = self._behind(asked, whole, marks)
        if end_id in said:
            return said[: said.index(end_id) + 1]
        return [*self._behind(asked, whole[: whole.rindex(kept) + len(kept)], marks), end_id]

    def behind_answer(self) -> list[int]:
        """The tokens that the template writes behind an answer; none where it shows no answer."""
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
        return self._encode(self._render(turn, False, self._marks(turn)).partition(ANSWER)[2])

    def plain(self, text: str) -> list[int]:
        """Tokens of plain text, none of them special: where the model would make one, its characters are encoded apart."""
        ids = self._plain(text)
        if not self.made.intersection(ids):
            return ids
        behind_first = [found.start() + 1 for found in self.special.finditer(text)] if self.special else []
        cuts = [place for place in behind_first if place < len(text)]
        if not cuts:  # of other characters, which a normalizer makes the same, or of one alone
            apart = [token for letter in text for token in self._continue(letter, self._plain)]
            return [token for token in apart if token not in self.made]
        first, *rest = (text[begin:end] for begin, end in pairwise([0, *cuts, len(text)]))
        return self.plain(first) + [token for part in rest for token in self.continuation(part)]

    def continuation(self, text: str) -> list[int]:
        """Tokens of plain text that goes on where other text ended: no space is put before it."""
        return self._continue(text, self.plain)

    def _marks(self, messages: Sequence[Message]) -> "Marks":
        given = json.dumps(self.arguments, ensure_ascii=False, default=str)
        texts = (message["content"] for message in messages)
        return Marks.not_in("".join([f"{self.tokenizer.chat_template}", given, *texts]))

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, marks: "Marks") -> str:
        marked = [{**message, "content": self._marked(message["content"], marks)} for message in messages]
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

    def _marked(self, text: str, marks: "Marks") -> str:
        text = valid(text)
        if self.special is None:
            return text
        # Where a normalizer makes a special token of other characters, nobody knows of which.
        if self.made and self.made.intersection(self._plain(self.special.sub(" ", text))):
            return f"{marks.open}{text}{marks.close}"
        return self.special.sub(lambda found: f"{marks.open}{found[0]}{marks.close}", text)

    def _behind(self, asked: str, whole: str, marks: "Marks") -> list[int]:
        """Tokens of what `whole` has behind `asked`; the whole's own unless one of them reaches over the border."""
        before, tokens = self._tokens(asked, marks), self._tokens(whole, marks)
        if tokens[: len(before)] == before:
            return tokens[len(before) :]
        return self._tokens(whole[len(asked) :], marks, is_begin=False)

    def _tokens(self, rendered: str, marks: "Marks", is_begin: bool = True) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(marks.parts(rendered)):
            if place % 2 == 1:
                ids += self.continuation(part)
            elif place == 0 and is_begin:
                ids += self._encode(part)
            else:
                ids += self._continue(part, self._encode)
        return ids

    def _continue(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Tokens without the space that some tokenizers put before every text: behind an anchor they put none."""
        for anchor in ANCHORS:
            before, both = encode(anchor), encode(anchor + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return encode(text)

    def _plain(self, text: str) -> list[int]:
        return self._encode(text, split_special_tokens=True)

    def _encode(self, text: str, **how: Any) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, **how)["input_ids"] if text else []


@dataclass(frozen=True)
class Marks:
    """The characters before and behind what is not to become a special token."""

    open: str
    close: str

    @classmethod
    def not_in(cls, text: str) -> "Marks":
        """Two that this text has not."""
        unused = (chr(code) for code in chain(*PRIVATE) if chr(code) not in text)
        return cls(next(unused), next(unused))

    def parts(self, text: str) -> Iterable[str]:
        """The text split at what is marked, which is every second part; without marks that the template cut in two."""
        split = re.split(f"{self.open}(.*?){self.close}", text, flags=re.DOTALL)
        return (part.replace(self.open, "").replace(self.close, "") for part in split)


def parse_arguments(text: str) -> dict[str, Any]:
    """Template arguments from NAME=VALUE,…; a value is JSON (true, 3) or else text. Raises InputError for other text."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InputError(f"template_kwargs: {part!r} is not NAME=VALUE, such as enable_thinking=false")
        try:
            found[name.strip()] = json_within(value)
        except ValueError:
            found[name.strip()] = value.strip()
    if taken := sorted(OURS & found.keys()):
        raise InputError(f"template_kwargs: {taken[0]} is given by the program itself; leave it out")
    return found
