"""One vocabulary, two engines: a tiktoken encoding for our own loops, the same ranks as a fast tokenizer for trl.

Text from people never becomes a special token: both engines encode the text of `<|end|>` as ordinary characters.
"""

import base64
import itertools
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError, first_line, is_panic
from rlhf.models.chat_template import parse_arguments, valid
from rlhf.models.checkpoints import check_no_adapter
from rlhf.models.foreign_tokenizer import (
    TEMPLATE_FILE,
    TO_BYTE,
    ForeignTokenizer,
    bytes_to_unicode,
    is_told_apart,
    template_for,
)
from rlhf.models.offload import stored_head
from rlhf.models.sources import Source, declared_stops, file_of, find_source, reading, stops_in

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MOST_TOKENS = 2**24  # of a trained vocabulary; the largest published ones have a quarter of a million
# Rust's \s, so often in a row that tiktoken's regular expressions come near the end of their stack (a million).
BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
MANY_BLANKS = re.compile(BLANK + "{100000,}")
RANKS_FILE = "ranks.tiktoken"
PATTERN_FILE = "encoding.json"


class Tokenizer:
    """A tiktoken encoding with the chat's special tokens."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> None:
        self.ranks, self.pattern, self.specials = ranks, pattern, specials
        self.encoding = tiktoken.Encoding(
            "rlhf", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
        )
        self.pad_id, self.eos_id = specials["<|pad|>"], specials["<|end|>"]
        self.document_end_id = specials["<|endoftext|>"]
        self.first_ids: tuple[int, ...] = ()  # in front of every text
        self.stop_ids = frozenset((self.eos_id, self.document_end_id))
        self.vocab_size = self.encoding.n_vocab
        self.largest_id = self.vocab_size - 1
        special = frozenset(specials.values())
        self.unused = frozenset(range(self.vocab_size)) - special.union(
            ranks.values()
        )  # published encodings have gaps
        self.silent = self.unused | special

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; unpaired surrogates become U+FFFD, special tokens stay their characters.

        Raises InputError for a text that tiktoken cannot split.
        """
        return self._encode(valid(text))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        start = 0
        for blanks in MANY_BLANKS.finditer(text) if self.pattern == SPLIT_PATTERN else ():
            # The pattern makes them one piece, all but the last where something follows: that begins the next piece.
            end = blanks.end() - (blanks.end() < len(text))
            ids += self._split(text[start : blanks.start()])
            ids += self.encoding._encode_single_piece(text[blanks.start() : end])
            start = end
        return ids + self._split(text[start:])

    def _split(self, text: str) -> list[int]:
        try:
            return self.encoding.encode_ordinary(text)
        except BaseException as problem:
            if is_panic(problem):
                raise InputError(
                    f"a text of {len(text)} characters cannot be split into tokens (it begins {text[:20]!r}); "
                    "shorten what it repeats, such as a million blanks in a row"
                ) from None
            raise

    def encode_with_special(self, text: str) -> list[int]:
        """`encode`, but the text of a special token is that token."""
        parts = re.split(f"({'|'.join(map(re.escape, self.specials))})", valid(text))
        return [
            token
            for part in parts
            for token in ([self.specials[part]] if part in self.specials else self._encode(part))
        ]

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of plain text behind other tokens."""
        return self.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on several threads."""
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(self.encode, texts))

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of token ids; incomplete UTF-8 becomes U+FFFD, and a number that no token has is no text."""
        silent = self.unused if keep_special else self.silent
        shown = [i for i in ids if i not in silent and i < self.vocab_size]
        return self.encoding.decode(shown, errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for, be it a part of a character or special; nothing for a number that no token has."""
        return b"" if token in self.unused else self.encoding.decode_single_token_bytes(token)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The conversation in the chat format, up to and with `<|assistant|>`."""
        ids: list[int] = []
        for message in as_messages(prompt):
            ids += [self.specials[f"<|{message['role']}|>"], *self.encode(message["content"]), self.eos_id]
        return [*ids, self.specials["<|assistant|>"]]

    def encode_completion(self, text: str, prompt: Prompt | None = None) -> list[int]:
        """An answer with the `<|end|>` that closes it, the same behind every prompt."""
        return [*self.encode(text), self.eos_id]

    def fast(self) -> PreTrainedTokenizerFast:
        """The same vocabulary as a transformers tokenizer, with the chat template."""
        vocabulary, merges = _vocabulary_and_merges(self.ranks)
        # Here and not only added, which would number them from the vocabulary's size on; no text has a space at this place.
        vocabulary |= self.specials | {f"<unused {i}>": i for i in self.unused}
        backend = BackendTokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(self.pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        ordered = sorted(self.specials, key=self.specials.__getitem__)
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ordered])
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|endoftext|>",
            eos_token="<|end|>",
            pad_token="<|pad|>",
            chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=False,
        )

    def save(self, folder: Path) -> None:
        """Write what both `Tokenizer.load` and transformers' AutoTokenizer read."""
        self.fast().save_pretrained(folder)
        lines = [
            f"{base64.b64encode(token).decode()} {rank}"
            for token, rank in sorted(self.ranks.items(), key=lambda pair: pair[1])
        ]
        (Path(folder) / RANKS_FILE).write_text("\n".join(lines) + "\n")
        (Path(folder) / PATTERN_FILE).write_text(
            json.dumps({"pattern": self.pattern, "special_tokens": self.specials})
        )

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer that `save` wrote. Raises InputError for damaged files."""
        try:
            settings = json.loads((Path(folder) / PATTERN_FILE).read_text())
            lines = (Path(folder) / RANKS_FILE).read_text().splitlines()
            ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}
            return cls(ranks, settings["pattern"], settings["special_tokens"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
            raise InputError(
                f"{folder}: the tokenizer's files are damaged ({first_line(problem)}); restore or export it again"
            ) from None


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` tokens, the special ones included, trained on texts.

    Raises InputError where bytes and special tokens alone are more.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if not smallest <= vocab_size <= MOST_TOKENS:
        raise InputError(
            f"vocab_size is {vocab_size}; bytes and special tokens alone need {smallest}, and more than {MOST_TOKENS} are none"
        )
    backend = BackendTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # tiktoken demands that the 256 bytes exist and merges by rank; the trainer's ids are in the order of merging.
    vocabulary = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    ranks = {bytes(TO_BYTE[c] for c in token): rank for rank, (token, _) in enumerate(vocabulary)}
    return Tokenizer(ranks, SPLIT_PATTERN, {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)})


def published_tokenizer(name: str) -> Tokenizer:
    """One of tiktoken's published encodings with the chat's special tokens behind its vocabulary.

    Raises InputError for a name that tiktoken has not, and where it cannot be downloaded.
    """
    try:
        published = tiktoken.get_encoding(name)
    except ValueError as problem:
        raise InputError(f"tokenizer {name!r}: {first_line(problem)}") from None
    except Exception:
        raise InputError(
            f"tokenizer {name!r} could not be downloaded; without a network set TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from None
    specials = {"<|endoftext|>": published.eot_token}
    for token in SPECIAL_TOKENS[1:]:
        specials[token] = published.n_vocab + len(specials) - 1
    return Tokenizer(dict(published._mergeable_ranks), published._pat_str, specials)


AnyTokenizer = Tokenizer | ForeignTokenizer


def load_tokenizer(name: str | Path, template_kwargs: str = "") -> AnyTokenizer:
    """Our tokenizer from a folder that has our files, else what transformers finds in a folder, GGUF file or hub id.

    template_kwargs: NAME=VALUE,… for the model's chat template, over those that were saved with it. Raises InputError
    where there is no tokenizer, or one without an end token.
    """
    arguments, source = parse_arguments(template_kwargs), find_source(name)
    ranks = None if source.gguf else file_of(source, RANKS_FILE)
    if ranks:
        if arguments:
            raise InputError(f"template_kwargs: {name} has the chat format of this project, which takes none")
        file_of(source, PATTERN_FILE)  # into the same folder
        return Tokenizer.load(ranks.parent)
    try:
        with reading(name, "no tokenizer there"):
            found = AutoTokenizer.from_pretrained(**source.arguments)
    except InputError:
        check_no_adapter(source, name)  # whose folder often has none
        raise
    return ForeignTokenizer(found, declared_stops(source), _saved_arguments(source) | arguments)


def load_chat_tokenizer(name: str | Path, template_kwargs: str = "") -> AnyTokenizer:
    """`load_tokenizer`, given a chat template where it has none: for what teaches a model to chat.

    Of a family's turn tokens only where the model, read for that, can tell them from others (`is_told_apart`).
    """
    found = load_tokenizer(name, template_kwargs)
    if isinstance(found, ForeignTokenizer) and found.tokenizer.chat_template is None:
        found.tokenizer.chat_template = template_for(found.tokenizer, partial(_is_known, name))
        return ForeignTokenizer(found.tokenizer, sorted(found.stop_ids), found.template_kwargs)
    return found


def _is_known(name: str | Path, token: int) -> bool:
    """Whether a model tells the token from others, or nothing says that it does not."""
    head = stored_head(name)
    return head is None or is_told_apart(token, head)


def _saved_arguments(source: Source) -> dict[str, Any]:
    """The chat template's arguments that `ForeignTokenizer.save` wrote; none where there is no such file."""
    file = None if source.gguf else file_of(source, TEMPLATE_FILE)
    if file is None:
        return {}
    with reading(file, "these are no arguments of a chat template"):
        saved = json.loads(file.read_text())
        if not isinstance(saved, dict):
            raise ValueError("an object of names and values is wanted")
        return saved


def same_tokens(one: AnyTokenizer, other: AnyTokenizer) -> bool:
    """Whether both turn every conversation into the same tokens: one vocabulary, one chat template."""
    return isinstance(one, Tokenizer) == isinstance(other, Tokenizer) and content_of(one) == content_of(other)


def content_of(tokenizer: AnyTokenizer) -> dict[str, Any]:
    """All that decides which tokens a conversation becomes, as JSON has it."""
    if isinstance(tokenizer, Tokenizer):
        ranks = {token.hex(): rank for token, rank in tokenizer.ranks.items()}
        return {"vocabulary": ranks, "pattern": tokenizer.pattern, "specials": tokenizer.specials}
    return {
        "vocabulary": tokenizer.tokenizer.get_vocab(),
        "template": tokenizer.tokenizer.chat_template,
        "template_kwargs": tokenizer.template_kwargs,
    }


def _vocabulary_and_merges(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """tiktoken ranks as a BPE vocabulary and merge list: each token is split by all merges ranked before it."""
    to_character: dict[int, Any] = bytes_to_unicode()
    text = {token: "".join(to_character[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
        if len(token) > 1:
            left, right = _last_merge(ranks, token, rank)
            merges.append((text[left], text[right]))
    return {text[token]: rank for token, rank in ranks.items()}, merges


def _last_merge(ranks: dict[bytes, int], token: bytes, rank: int) -> tuple[bytes, bytes]:
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        candidates = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        best, i = min(candidates)
        if best >= rank:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], b"".join(parts[1:])


def any_tokenizer(tokenizer: Any, model: Any = None) -> AnyTokenizer:
    """One of our tokenizers, or a Hugging Face tokenizer in our clothes, with the end tokens that its model declares."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer  # type: ignore[no-any-return]
    return ForeignTokenizer(tokenizer, stops_in(getattr(model, "generation_config", None), "model"))
