"""Judge checkpoints on prompts that no stage has seen: win rate with its interval, KL, reward, length, endings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf.data import Prompt, as_messages, read_prompts
from rlhf.errors import InputError
from rlhf.inputs import model_of, starter_items
from rlhf.learning.rewards import Reward, score_completions
from rlhf.learning.rollout import Rollout
from rlhf.learning.training import autocast, best_device, set_threads
from rlhf.measuring.evaluate import WinRate, sequence_kl, win_rate
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.sampling.generate import Sample, SamplingSettings, generate
from rlhf.starter.items import Item
from rlhf.starter.judge import judge
from rlhf.store import Store
from stages.ppo.inputs import joined, rewards_named
from stages.settings import EvalSettings, PPOConfig

BATCH_SIZE = 256


@dataclass(frozen=True)
class Answers:
    """One completion for each prompt, as text and as a rollout of the policy that gave them."""

    policy: Any
    tokenizer: AnyTokenizer
    rollout: Rollout
    texts: list[str]
    ended: list[bool]

    @property
    def mean_length(self) -> float:
        """Tokens per completion, the stop token counted."""
        return float(self.rollout.mask.sum(1).float().mean())

    @property
    def share_ended(self) -> float:
        return sum(self.ended) / len(self.ended)


def run(settings: EvalSettings, store: Store, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Judge one checkpoint, alone or against another; returns what `rlhf eval --json` prints.

    On starter prompts the judge scores; on a file's prompts the reward model does. `mean_reward` is the mean score
    of the policy, `kl` the mean log-ratio of its samples to `against` in nats per completion (null without it).
    """
    set_threads(0)
    prompts, items = _prompts(settings)
    say(f"eval: {settings.policy} on {len(prompts)} prompts")
    answers = answer(settings, store, settings.policy, prompts, settings.seed)
    scores = _scores(settings, store, items, prompts, answers)
    result: dict[str, Any] = {
        "policy": settings.policy,
        "against": settings.against,
        "scored_by": "starter judge" if items else settings.reward,
        "temperature": settings.temperature,
        "win_rate": None,
        "ci95": None,
        "n": len(prompts),
        "ties": None,
        "kl": None,
        "mean_reward": round(sum(scores) / len(scores), 4),
        "mean_length": round(answers.mean_length, 2),
        "ended": round(answers.share_ended, 4),
    }
    if settings.against:
        # Draws of its own: shared random numbers would turn sampling luck into ties and flatter the better side.
        other = answer(settings, store, settings.against, prompts, settings.seed + 1_000_003)
        result |= compared(win_rate(scores, _scores(settings, store, items, prompts, other), settings.seed))
        result["kl"] = kl_between(answers, other.policy)
    return result


def compared(rate: WinRate) -> dict[str, Any]:
    """A win rate as JSON fields."""
    return {
        "win_rate": round(rate.win_rate, 4),
        "ci95": [round(x, 4) for x in rate.ci95],
        "n": rate.n,
        "ties": rate.ties,
    }


def kl_between(answers: Answers, reference: Any) -> float | None:
    """Nats per completion from the policy that gave the answers to a reference; None where vocabularies differ."""
    if answers.policy.config.vocab_size != reference.config.vocab_size:
        return None
    return round(float(sequence_kl(answers.policy, reference, answers.rollout).mean()), 4)


def answer(
    settings: EvalSettings, store: Store, reference: str, prompts: Sequence[Prompt], seed: int
) -> Answers:
    """One completion of every prompt by the checkpoint a reference names."""
    folder, _ = model_of(store, reference)
    policy, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts]
    samples = sampled(policy, tokenizer, rows, settings.temperature, settings.max_new_tokens, seed)
    rollout = Rollout.from_samples(rows, samples, tokenizer.pad_id, round_to=8)
    texts = [tokenizer.decode(sample.tokens).strip() for sample in samples]
    return Answers(policy, tokenizer, rollout, texts, [sample.ended for sample in samples])


def sampled(
    policy: Any,
    tokenizer: AnyTokenizer,
    rows: list[list[int]],
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[Sample]:
    """One sample for each row of prompt tokens, in the number format the stages use."""
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    with autocast(policy.device):
        return generate(
            policy, rows, sampling, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id, seed=seed, batch_size=BATCH_SIZE
        )  # fmt: skip


def _prompts(settings: EvalSettings) -> tuple[list[Prompt], list[Item]]:
    if settings.prompts:
        if settings.reward is None:
            raise InputError(
                "your own prompts need something that scores the answers: name a reward model with --reward"
            )
        return read_prompts(settings.prompts)[: settings.num_prompts], []
    held_out = settings.split == "held-out"
    items = starter_items(
        "test" if held_out else settings.split, settings.num_prompts, settings.seed + 1, held_out
    )
    return [item.prompt for item in items], items


def _scores(
    settings: EvalSettings, store: Store, items: list[Item], prompts: Sequence[Prompt], answers: Answers
) -> list[float]:
    if items:
        return judged(items, answers)
    folder, _ = model_of(store, str(settings.reward))
    model, tokenizer = load_scalar(folder).to(best_device()), load_tokenizer(folder)
    return score_completions(model, tokenizer, list(zip(prompts, answers.texts, strict=True)))


def judged(items: Sequence[Item], answers: Answers) -> list[float]:
    """The starter judge's score, 1 to 7, of each answer."""
    return [
        judge(item, text, ended).score
        for item, text, ended in zip(items, answers.texts, answers.ended, strict=True)
    ]


def best_of(
    settings: EvalSettings, store: Store, policy: str, reward: str, prompts: Sequence[Prompt], n: int
) -> Answers:
    """For each prompt the completion of n that the reward model scores highest: what PPO has to beat."""
    folder, _ = model_of(store, policy)
    model, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    rewards, _, _ = rewards_named(store, reward)
    candidates = sampled_candidates(
        model, tokenizer, joined(rewards, tokenizer), prompts, n, settings.temperature, settings.max_new_tokens,
        settings.seed + 7,
    )  # fmt: skip
    rollout = candidates.rollout.select(candidates.best())
    texts = [tokenizer.decode(said).strip() for said in rollout.completions]
    return Answers(model, tokenizer, rollout, texts, rollout.ended.tolist())


@dataclass(frozen=True)
class Candidates:
    """n completions of each of P prompts, in a row, and their scores (P, n), a penalty taken from those not ended."""

    rollout: Rollout
    scores: Tensor

    def best(self) -> list[int]:
        """The row of each prompt's best completion. KL to the sampling policy: at most `kl_of_best_of(n)`."""
        n = self.scores.shape[1]
        return [p * n + int(best) for p, best in enumerate(self.scores.argmax(1))]


def kl_of_best_of(n: int) -> float:
    """Nats per completion that choosing the best of n is away from sampling, at most (Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n


def sampled_candidates(
    policy: Any,
    tokenizer: AnyTokenizer,
    reward: Reward,
    prompts: Sequence[Prompt],
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    missing_eos_penalty: float = PPOConfig.missing_eos_penalty,
) -> Candidates:
    """n completions of every prompt with the scores PPO would see, its missing-EOS penalty included."""
    conversations = [prompt for prompt in prompts for _ in range(n)]
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in conversations]
    samples = sampled(policy, tokenizer, rows, temperature, max_new_tokens, seed)
    rollout = Rollout.from_samples(
        rows, samples, tokenizer.pad_id, round_to=8, conversations=conversations, end_id=tokenizer.eos_id
    )
    scores = reward.combined(reward.components(rollout)) - missing_eos_penalty * (~rollout.ended).float()
    return Candidates(rollout, scores.view(len(prompts), n))
