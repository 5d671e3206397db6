"""Answers of policies to be judged, and the best of several among them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path

from rlhf.data import Demonstration, Prompt, PromptRow, as_messages, fingerprint
from rlhf.errors import InputError
from rlhf.learning.prompts import ROUND_TO, encode_prompts
from rlhf.learning.rollout import Rollout
from rlhf.machine.devices import best_device
from rlhf.measuring.evaluate import sequence_kl
from rlhf.models.checkpoints import context_of, load_policy
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer, same_tokens
from stages.judging.sampled import SampleFile, sample_answers
from stages.judging_settings import EvalSettings
from stages.settings import SampleSettings


@dataclass(frozen=True)
class Model:
    """A model to judge or to judge by: where it is, what it is by content, and what its chat template is given."""

    folder: Path | str
    hash: str
    template_kwargs: str = ""

    def tokenizer(self) -> AnyTokenizer:
        return load_tokenizer(self.folder, self.template_kwargs)


@dataclass(frozen=True)
class Answers:
    """n answers to every prompt, in a row: text, whether it ended, tokens, and nats to a reference (None: unknown)."""

    texts: list[str]
    ended: list[bool]
    lengths: list[int]
    kl: list[float | None]

    @classmethod
    def written(cls, texts: Sequence[str]) -> "Answers":
        """Texts that people wrote and no model drew: they end, and of tokens nothing is known."""
        return cls(list(texts), [True] * len(texts), [], [None] * len(texts))

    def at(self, places: Sequence[int]) -> "Answers":
        """Those to some of the prompts, where each has one answer."""
        return Answers(
            [self.texts[i] for i in places],
            [self.ended[i] for i in places],
            [self.lengths[i] for i in places],
            [self.kl[i] for i in places],
        )

    @property
    def num_words(self) -> list[int]:
        return [len(text.split()) for text in self.texts]

    @property
    def mean_kl(self) -> float | None:
        """Nats per completion; None where it is unknown."""
        known = [kl for kl in self.kl if kl is not None]
        return round(sum(known) / len(known), 4) if known and len(known) == len(self.kl) else None


def answers_to(prompts: Sequence[Prompt], demonstrations: Iterable[Demonstration]) -> list[str]:
    """The first answer that the demonstrations hold to each prompt, "" where they hold none."""
    found: dict[str, str] = {}
    for row in demonstrations:
        found.setdefault(fingerprint(as_messages(row.prompt)), row.completion)
    return [found.get(fingerprint(as_messages(prompt)), "") for prompt in prompts]


def fitting_prompts(
    folders: Sequence[str],
    rows: Sequence[PromptRow],
    settings: SampleSettings | EvalSettings,
    say: Callable[[str], None],
) -> list[PromptRow]:
    """The prompts that every model has room to answer. Raises InputError for another one, unless skip_long is set."""
    kwargs, longest = settings.template_kwargs, settings.max_new_tokens
    return fitting_rows(folders, rows, kwargs, longest, settings.skip_long, say)


def fitting_rows(
    folders: Sequence[str],
    rows: Sequence[PromptRow],
    template_kwargs: str,
    max_new_tokens: int,
    skip_long: bool,
    say: Callable[[str], None],
) -> list[PromptRow]:
    """`fitting_prompts` by the numbers it needs."""
    for folder in folders:
        tokenizer, context = load_tokenizer(folder, template_kwargs), context_of(folder)
        encoded = encode_prompts(rows, tokenizer, context, max_new_tokens, skip_long, say)
        rows = [PromptRow(prompt=row.prompt, columns=row.columns) for row in encoded]
    return list(rows)


def answer(
    model: Model,
    reference: Model | None,
    prompts: Sequence[Prompt],
    *,
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    file: SampleFile | None = None,
) -> Answers:
    """n sampled answers to every prompt; those that the file has are not sampled again.

    The nats are None without a reference, to one that reads other tokens, and of greedy answers, which are no samples.
    """
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), model.tokenizer()
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts for _ in range(n)]
    samples = sample_answers(policy, tokenizer, rows, temperature, max_new_tokens, seed, file)
    kl: list[float | None] = [None] * len(samples)
    if reference is not None and temperature and same_tokens(tokenizer, reference.tokenizer()):
        other = load_policy(reference.folder).to(policy.device).eval()
        if other.config.vocab_size == policy.config.vocab_size:
            rollout = Rollout.from_samples(rows, samples, tokenizer.pad_id, round_to=ROUND_TO)
            nats = sequence_kl(policy, other, rollout, temperature).tolist()
            kl = [value if isfinite(value) else None for value in nats]
    return Answers(
        [tokenizer.decode(sample.tokens).strip() for sample in samples],
        [sample.ended for sample in samples],
        [len(sample.tokens) for sample in samples],
        kl,
    )


def rewards_as_seen(
    answers: Answers, scores: Sequence[float | None], missing_eos_penalty: float
) -> list[float]:
    """The scores that PPO would see, a penalty taken from those of answers that did not end; −inf where there is none."""
    return [
        -inf if score is None else score - (0.0 if ended else missing_eos_penalty)
        for score, ended in zip(scores, answers.ended, strict=True)
    ]


def best_of(answers: Answers, rewards: Sequence[float], n: int, kl: float | None) -> Answers:
    """Of every n answers in a row the one with the highest reward; kl: what choosing is away from sampling."""
    best = [max(range(at, at + n), key=rewards.__getitem__) for at in range(0, len(rewards), n)]
    return Answers(
        [answers.texts[i] for i in best],
        [answers.ended[i] for i in best],
        [answers.lengths[i] for i in best],
        [kl] * len(best),
    )


def not_finite(scorer: str, prompt: Prompt) -> InputError:
    """The refusal of a score that is no finite number: it would win or lose against all others."""
    asked = as_messages(prompt)[-1]["content"]
    return InputError(
        f"{scorer}: the score of an answer to {asked!r:.80} is no finite number; "
        "a function says None of what it does not judge"
    )
