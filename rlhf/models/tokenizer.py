"""One vocabulary, two engines: a tiktoken encoding for our own loops, the same ranks as a fast tokenizer for trl.

Text from people never becomes a special token: both engines encode the text of `<|end|>` as ordinary characters.
"""

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
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
from rlhf.errors import InputError, first_line
from rlhf.models.chat_template import ChatTemplate, parse_arguments
from rlhf.models.given_template import template_for
from rlhf.models.sources import declared_stops, find_source, reading, stops_in

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRIAL: Prompt = [  # a conversation that shows a chat format's tokens
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": "!"},
    {"role": "user", "content": "?"},
]
RANKS_FILE = "ranks.tiktoken"
PATTERN_FILE = "encoding.json"
TEMPLATE_FILE = "template_kwargs.json"


class Tokenizer:
    """A tiktoken encoding with the chat's special tokens."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> None:
        self.ranks, self.pattern, self.specials = ranks, pattern, specials
        self.encoding = tiktoken.Encoding(
            "rlhf", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
        )
        self.pad_id, self.eos_id = specials["<|pad|>"], specials["<|end|>"]
        self.document_end_id = specials["<|endoftext|>"]
        self.stop_ids = frozenset((self.eos_id, self.document_end_id))
        self.vocab_size = self.encoding.n_vocab
        self.largest_id = self.vocab_size - 1
        taken = {*ranks.values(), *specials.values()}
        self.unused = frozenset(range(self.vocab_size)) - taken  # published encodings number with gaps

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; unpaired surrogates become U+FFFD, special tokens stay their characters."""
        return self.encoding.encode_ordinary(_valid(text))

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of plain text behind other tokens."""
        return self.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on several threads."""
        return self.encoding.encode_ordinary_batch([_valid(text) for text in texts])

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of token ids; incomplete UTF-8 becomes U+FFFD, and a number that no token has is no text."""
        silent = self.unused if keep_special else self.unused.union(self.specials.values())
        shown = [i for i in ids if i not in silent and i < self.vocab_size]
        return self.encoding.decode(shown, errors="replace")

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
        except (OSError, ValueError, KeyError) as problem:
            raise InputError(
                f"{folder}: the tokenizer's files are damaged ({problem}); restore or export it again"
            ) from None


class ForeignTokenizer:
    """A Hugging Face tokenizer with the methods of `Tokenizer`; its own chat template where it has one.

    eos_id closes an answer: the special token the template puts behind one, which need not be the tokenizer's end
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
        self.pad_id = self.document_end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.eos_id = self._turn_end()
        self.stop_ids = frozenset((self.eos_id, self.document_end_id, *stops))
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # there may be gaps

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens stay their characters."""
        return self._chat_template.plain(_valid(text))

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of plain text behind other tokens: without the space that SentencePiece puts before a text."""
        return self._chat_template.continuation(_valid(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of token ids; what ends an answer is no part of it, be it special or not."""
        shown = ids if keep_special else [i for i in ids if i not in self.stop_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=not keep_special))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The conversation in the model's own chat format, or as `User: …` lines where it has none.

        Token for token what its template gives, except that no text becomes a special token.
        """
        messages = as_messages(prompt)
        if self.template:
            return self.template.encode_prompt(messages)
        lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        start = self.tokenizer("")["input_ids"][:1]  # models that were trained with a first token need it
        begins = start if start == [self.tokenizer.bos_token_id] else []
        return [*begins, *self.encode("\n".join(lines) + "\nAssistant:")]

    def encode_completion(self, text: str, prompt: Prompt | None = None) -> list[int]:
        """An answer with the end token that closes it, as the chat template writes one behind this prompt."""
        if self.template and prompt is not None:
            return self.template.encode_answer(as_messages(prompt), _valid(text), self.eos_id)
        return [*self.encode(text), self.eos_id]

    @property
    def template(self) -> ChatTemplate | None:
        """The model's own chat template with its arguments, where it has one."""
        if self.tokenizer.chat_template is None:
            return None
        return self._chat_template

    @property
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


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _valid(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` tokens, the special ones included, trained on texts."""
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise InputError(f"vocab_size is {vocab_size}; bytes and special tokens alone need {smallest}")
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
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    # tiktoken demands that the 256 bytes exist and merges by rank; the trainer's ids are in the order of merging.
    vocabulary = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    ranks = {bytes(to_byte[c] for c in token): rank for rank, (token, _) in enumerate(vocabulary)}
    return Tokenizer(ranks, SPLIT_PATTERN, {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)})


def published_tokenizer(name: str) -> Tokenizer:
    """One of tiktoken's published encodings with the chat's special tokens behind its vocabulary."""
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
    arguments = parse_arguments(template_kwargs)
    if (Path(name) / RANKS_FILE).exists():
        if arguments:
            raise InputError(f"template_kwargs: {name} has the chat format of this project, which takes none")
        return Tokenizer.load(Path(name))
    source = find_source(name)
    with reading(name, "no tokenizer there"):
        found = AutoTokenizer.from_pretrained(**source.arguments)
    return ForeignTokenizer(found, declared_stops(source), _saved_arguments(Path(name)) | arguments)


def load_chat_tokenizer(name: str | Path, template_kwargs: str = "") -> AnyTokenizer:
    """`load_tokenizer`, given a chat template where it has none: for what teaches a model to chat."""
    found = load_tokenizer(name, template_kwargs)
    if isinstance(found, ForeignTokenizer) and found.tokenizer.chat_template is None:
        found.tokenizer.chat_template = template_for(found.tokenizer)
        return ForeignTokenizer(found.tokenizer, sorted(found.stop_ids), found.template_kwargs)
    return found


def _saved_arguments(folder: Path) -> dict[str, Any]:
    """The chat template's arguments that `ForeignTokenizer.save` wrote; none where there is no such file."""
    file = folder / TEMPLATE_FILE
    if not file.is_file():
        return {}
    with reading(file, "these are no arguments of a chat template"):
        saved = json.loads(file.read_text())
        if not isinstance(saved, dict):
            raise ValueError("an object of names and values is wanted")
        return saved


def same_tokens(one: AnyTokenizer, other: AnyTokenizer) -> bool:
    """Whether both turn every conversation into the same tokens: one vocabulary, one chat template."""
    if isinstance(one, Tokenizer) and isinstance(other, Tokenizer):
        return (one.ranks, one.pattern, one.specials) == (other.ranks, other.pattern, other.specials)
    if isinstance(one, Tokenizer) or isinstance(other, Tokenizer):
        return False
    if one.template_kwargs != other.template_kwargs:
        return False
    a, b = one.tokenizer, other.tokenizer
    return a.get_vocab() == b.get_vocab() and a.chat_template == b.chat_template


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
