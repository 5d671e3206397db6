"""Completions of a policy to be judged, the best of several among them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf.data import Prompt, PromptRow, as_messages
from rlhf.inputs import locate_model
from rlhf.learning.prompts import EncodedPrompt, encode_prompts
from rlhf.learning.reward_sources import combined_reward, load_rewards
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Rollout
from rlhf.machine.devices import autocast, best_device
from rlhf.models.checkpoints import context_of, load_policy
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.sampling.generate import Sample, SamplingSettings, generate
from rlhf.store import Store
from stages.settings import EvalSettings, PPOConfig, SampleSettings

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


def fitting_prompts(
    folders: Sequence[str],
    rows: Sequence[PromptRow],
    settings: SampleSettings | EvalSettings,
    say: Callable[[str], None],
) -> list[Prompt]:
    """The prompts that every model has room to answer. Raises InputError for another one, unless skip_long is set."""
    for folder in folders:
        encoded = encode_prompts(
            rows, load_tokenizer(folder), context_of(folder), settings.max_new_tokens, settings.skip_long, say
        )
        rows = [PromptRow(prompt=row.prompt, columns=row.columns) for row in encoded]
    return [row.prompt for row in rows]


def answer_prompts(
    settings: EvalSettings, store: Store, reference: str, prompts: Sequence[Prompt], seed: int
) -> Answers:
    """One completion of every prompt by the checkpoint a reference names."""
    folder, _ = locate_model(store, reference)
    policy, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts]
    samples = sample_answers(policy, tokenizer, rows, settings.temperature, settings.max_new_tokens, seed)
    rollout = Rollout.from_samples(rows, samples, tokenizer.pad_id, round_to=8)
    texts = [tokenizer.decode(sample.tokens).strip() for sample in samples]
    return Answers(policy, tokenizer, rollout, texts, [sample.ended for sample in samples])


def sample_answers(
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


def best_of(
    settings: EvalSettings, store: Store, policy: str, reward: str, prompts: Sequence[Prompt], n: int
) -> Answers:
    """For each prompt the completion of n that the reward model scores highest: what PPO has to beat."""
    folder, _ = locate_model(store, policy)
    model, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    rewards, _, _ = load_rewards(store, reward)
    encoded = encode_prompts(
        [PromptRow(prompt=prompt) for prompt in prompts],
        tokenizer,
        context_of(folder),
        settings.max_new_tokens,
    )
    candidates = sample_candidates(
        model, tokenizer, combined_reward(rewards, tokenizer), encoded, n, settings.temperature, settings.max_new_tokens,
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


def sample_candidates(
    policy: Any,
    tokenizer: AnyTokenizer,
    reward: Reward,
    prompts: Sequence[EncodedPrompt],
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    missing_eos_penalty: float = PPOConfig.missing_eos_penalty,
) -> Candidates:
    """n completions of every prompt with the scores PPO would see, its missing-EOS penalty included."""
    conversations = [row.prompt for row in prompts for _ in range(n)]
    rows = [row.tokens for row in prompts for _ in range(n)]
    samples = sample_answers(policy, tokenizer, rows, temperature, max_new_tokens, seed)
    rollout = Rollout.from_samples(
        rows, samples, tokenizer.pad_id, round_to=8, conversations=conversations, end_id=tokenizer.eos_id,
        columns=[row.columns for row in prompts for _ in range(n)],
    )  # fmt: skip
    scores = reward.combined(reward.components(rollout)) - missing_eos_penalty * (~rollout.ended).float()
    return Candidates(rollout, scores.view(len(prompts), n))
