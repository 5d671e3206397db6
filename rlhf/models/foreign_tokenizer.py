"""A Hugging Face tokenizer for our loops, and the chat template that one gets which has none, as base models' have."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError
from rlhf.models.chat_template import ChatTemplate, valid

TEMPLATE_FILE = "template_kwargs.json"
TRIAL: Prompt = [  # a conversation that shows a chat format's tokens
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": "!"},
    {"role": "user", "content": "?"},
]
# Where a vocabulary holds a family's own turn tokens, its format: tools that know the family will know the model.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set before = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set before = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}<start_of_turn>{{ 'model' if turn['role'] == 'assistant' else turn['role'] }}\n"
    "{{ before if loop.first else '' }}{{ turn['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = (
    "{% for turn in messages %}{{ turn['role'] | capitalize }}: {{ turn['content'] }}"
    "{{ eos_token if turn['role'] == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Rows of a head that nothing was trained on: the square of their distance by that of their length, here of a cosine of
# 0.95; and how many of them are no hindrance. SmolLM2-135M-Instruct says its end, which has 32, Gemma 3 270M with 6,210 not.
TWINS, NUM_TWINS = 0.1, 100
BY_TURN_TOKENS = {("<start_of_turn>", "<end_of_turn>"): GEMMA, ("<|im_start|>", "<|im_end|>"): CHATML}


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


TO_BYTE = {character: byte for byte, character in bytes_to_unicode().items()}
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's, of a character that its vocabulary has not


class ForeignTokenizer:
    """A Hugging Face tokenizer with the methods of `Tokenizer`; its own chat template where it has one.

    first_ids: what stands in front of every text, the model's first token or nothing. eos_id closes an answer: the special token the template puts behind one, which need not be the tokenizer's end
    token (Gemma's turns end otherwise than its documents). stops: more tokens that end an answer. template_kwargs: what
    the chat template is given beside the conversation, such as enable_thinking; kept with the tokenizer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[int] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise InputError(
                f"{name}: its tokenizer has no end token; set eos_token, in files in tokenizer_config.json"
            )
        self.tokenizer, self.template_kwargs = tokenizer, dict(template_kwargs or {})
        self._chat_template = ChatTemplate(tokenizer, self.template_kwargs)
        self.document_end_id = int(tokenizer.eos_token_id)
        self.first_ids = first_ids_of(tokenizer)
        self.pad_id = self.document_end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.eos_id = self._turn_end()
        self.stop_ids = frozenset((self.eos_id, self.document_end_id, *stops))
        self._bytes: dict[int, bytes] = {}  # of the tokens that were asked for
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # there may be gaps

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens stay their characters."""
        return self._chat_template.plain(valid(text))

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of plain text behind other tokens: without the space that SentencePiece puts before a text."""
        return self._chat_template.continuation(valid(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of token ids; what ends an answer is no part of it, be it special or not."""
        shown = ids if keep_special else [i for i in ids if i not in self.stop_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=not keep_special))

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for behind others, be it a part of a character or special."""
        if token not in self._bytes:
            self._bytes[token] = self._find_bytes(token)
        return self._bytes[token]

    def _find_bytes(self, token: int) -> bytes:
        before = self.encode("a")[-1:]  # SentencePiece leaves out the space that begins a text
        text = self.decode([*before, token], keep_special=True)[len(self.decode(before, keep_special=True)) :]
        if "\ufffd" not in text:
            return text.encode()
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        return bytes(TO_BYTE[c] for c in piece) if set(piece) <= TO_BYTE.keys() else text.encode()

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The conversation in the model's own chat format, or as `User: …` lines where it has none.

        Token for token what its template gives, except that no text becomes a special token.
        """
        messages = as_messages(prompt)
        if self.template:
            return self.template.encode_prompt(messages)
        lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        return [*self.first_ids, *self.encode("\n".join(lines) + "\nAssistant:")]

    def encode_completion(self, text: str, prompt: Prompt | None = None) -> list[int]:
        """An answer with the end token that closes it, as the chat template writes one behind this prompt."""
        if self.template and prompt is not None:
            return self.template.encode_answer(as_messages(prompt), valid(text), self.eos_id)
        return [*self.encode(text), self.eos_id]

    @property
    def template(self) -> ChatTemplate | None:
        """The model's own chat template with its arguments, where it has one."""
        if self.tokenizer.chat_template is None:
            return None
        return self._chat_template

    @cached_property
    def largest_id(self) -> int:
        """The largest token that a text, the chat format or padding may give.

        Special tokens that the format does not write are left out: Gemma 3's tokenizer has an image's, which those of its
        models that read text alone have no embedding for.
        """
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        try:
            written = self.encode_prompt(TRIAL)
        except InputError:
            written = []
        plain = set(self.tokenizer.get_vocab().values()) - special
        return max(*plain, *written, self.eos_id, self.pad_id, self.document_end_id)

    def _turn_end(self) -> int:
        """The first special token behind an answer in the chat template, else the tokenizer's end token."""
        try:
            behind = self.template.behind_answer() if self.template else []
        except InputError:
            behind = []
        added = self.tokenizer.added_tokens_decoder
        return next((i for i in behind if i in added and added[i].special), self.document_end_id)

    def fast(self) -> PreTrainedTokenizerBase:
        """The wrapped tokenizer, with a padding token."""
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return self.tokenizer

    def save(self, folder: Path) -> None:
        """Write the wrapped tokenizer's files."""
        self.tokenizer.save_pretrained(folder)
        if self.template_kwargs:
            (Path(folder) / TEMPLATE_FILE).write_text(json.dumps(self.template_kwargs) + "\n")


def template_for(tokenizer: Any, is_known: Callable[[int], bool] = lambda token: True) -> str:
    """The template for a Hugging Face tokenizer: its family's, else lines of `User: …` that its end token closes.

    is_known: whether the model can tell a turn token from others. It begins with the first token that the tokenizer itself
    puts in front of a text, if any.
    """
    special = tokenizer.get_added_vocab()
    known = (
        text
        for tokens, text in BY_TURN_TOKENS.items()
        if special.keys() >= set(tokens) and is_known(special[tokens[-1]])
    )
    return ("{{ bos_token }}" if first_ids_of(tokenizer) else "") + next(known, LINES)


@torch.no_grad()
def is_told_apart(token: int, head: Tensor) -> bool:
    """Whether a token's row of the head (V, C) is not also that of many others.

    Vocabularies hold tokens that no text of the training had, and all of these end as one row. A model whose head is not
    trained gives them one probability: it could never say this one, were it an answer's end. In Gemma 3 270M the end of a
    turn has 6,210 such twins.
    """
    row = head[token].float()
    reach = TWINS * row.square().sum()
    twins = sum(int(((part.float() - row).square().sum(1) <= reach).sum()) for part in head.split(2**14))
    return twins <= NUM_TWINS


def first_ids_of(tokenizer: Any) -> tuple[int, ...]:
    """What stands in front of every text that the model was trained on: its first token, or nothing.

    A model that had one reads a text without it badly: Gemma 3 270M by 1.3 nats a token.
    """
    first = tokenizer("")["input_ids"][:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()
