"""What an iteration of PPO learns from: sampled completions, their scores, advantages and returns.

Shapes: B completions of an iteration, b of a part, S tokens of a whole row, C channels, T tokens of the longest
completion, M rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.errors import TrainingError
from rlhf.learning.metrics import component_metrics, rollout_metrics, value_metrics
from rlhf.learning.passes import completion_logprobs, completion_values
from rlhf.learning.prompts import EncodedPrompt
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Experience, Rollout, in_length_order
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sampling.generate import SamplingSettings, generate
from stages.ppo.advantages import experience_of, penalties
from stages.ppo.checks import truncates
from stages.ppo.learner import Learner
from stages.ppo.models import reference_model
from stages.settings import PPOConfig

ROUND_TO = 8  # padding to few different widths keeps the allocator's blocks reusable


def sample(
    config: PPOConfig, policy: Any, prompts: Sequence[EncodedPrompt], tokenizer: AnyTokenizer, iteration: int
) -> Rollout:
    """A completion of every prompt, each process writing its share."""
    tokens = [prompt.tokens for prompt in prompts]
    mine = processes.shard(len(tokens))
    sampling = SamplingSettings(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p,
        processed_logprobs=truncates(config),
    )  # fmt: skip
    with autocast(policy.device, config.bf16):
        samples = generate(
            policy, tokens[mine.start : mine.stop], sampling, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id,
            seed=config.seed * 1_000_003 + iteration, batch_size=config.batch_size, first_row=mine.start,
        )  # fmt: skip
    conversations = [prompt.prompt for prompt in prompts]
    return Rollout.from_samples(
        tokens, processes.gather_rows(samples), tokenizer.pad_id, ROUND_TO, conversations, tokenizer.eos_id,
        [prompt.columns for prompt in prompts],
    )  # fmt: skip


def with_lower_states(config: PPOConfig, learner: Learner, rollout: Rollout) -> Rollout:
    """The rollout with what the frozen lower part makes of it, once for all models and updates; they are kept."""
    if learner.lower is None:
        return rollout
    lower, policy = learner.lower, learner.policy.eval()

    def states(part: Rollout) -> Tensor:
        return lower.states(policy, part.tokens.to(policy.device), part.attention_mask.to(policy.device))

    with autocast(policy.device, config.bf16):
        return replace(rollout, lower=lower, states=map_rows(rollout, config, states))  # (B, S, C)


@torch.no_grad()
def with_policy_logprobs(config: PPOConfig, policy: Any, rollout: Rollout) -> Rollout:
    """The rollout with the policy's own log-probabilities where those of the sampler are not, or are not to be, the same."""
    if not (config.recompute_logprobs or truncates(config)):
        return rollout
    with autocast(policy.device, config.bf16):
        own = map_rows(rollout, config, lambda part: completion_logprobs(policy, part, config.temperature))
    return replace(rollout, logprobs=own, sampler_logprobs=rollout.logprobs)


@dataclass(frozen=True)
class Judged:
    """A rollout with what the frozen models and the value model say of it.

    scores (B,) as the reward gave them, combined of components (B, M); ref_logprobs, values (B, T), the latter zeros where
    no value model learns.
    """

    rollout: Rollout
    scores: Tensor
    components: Tensor
    ref_logprobs: Tensor
    values: Tensor


@torch.no_grad()
def judge(
    config: PPOConfig, learner: Learner, reference: Any | None, reward: Reward, rollout: Rollout
) -> Judged:
    """Scores, reference log-probabilities and values of a rollout. Raises TrainingError for a score that is no number."""
    policy, value_model = learner.policy.eval(), learner.value_model
    rollout = with_policy_logprobs(config, policy, rollout)
    values = torch.zeros_like(rollout.logprobs)
    with autocast(policy.device, config.bf16):
        with reference_model(policy, reference) as frozen:
            ref_logprobs = map_rows(
                rollout, config, lambda part: completion_logprobs(frozen, part, config.temperature)
            )
        if value_model is not None:
            values = map_rows(rollout, config, lambda part: completion_values(value_model.eval(), part))
    mine = rollout.select(processes.shard(len(rollout)))
    components = torch.stack(processes.gather_rows(list(reward.components(mine))))
    scores = reward.combined(components)
    if not torch.isfinite(scores).all():
        raise TrainingError(
            f"iteration {learner.iteration}: the reward gave a score that is not a finite number"
        )
    return Judged(rollout, scores, components, ref_logprobs, values)


@torch.no_grad()
def gather_experience(
    config: PPOConfig, learner: Learner, reward: Reward, judged: Judged
) -> tuple[Experience, dict[str, float]]:
    """KL-shaped rewards, advantages and returns of a judged rollout; nothing here carries a gradient."""
    rollout, scores, beta = judged.rollout, judged.scores, learner.beta.value
    taken = penalties(config, rollout)
    metrics = rollout_metrics(rollout, scores, judged.ref_logprobs, beta, taken)
    metrics |= component_metrics(reward.scorers, judged.components)
    if config.normalize_scores:
        learner.moments.update(scores)
        scores = learner.moments.normalize(scores)
    if config.clip_scores:
        scores = scores.clamp(-config.clip_scores, config.clip_scores)
    experience = experience_of(config, rollout, scores - taken, judged.ref_logprobs, judged.values, beta)
    if learner.value_model is not None:
        metrics |= value_metrics(experience.values, experience.returns, experience.rollout.mask)
    if config.filter_overlong or config.filter_equal_scores:
        metrics["completion/learned"] = len(experience) / len(rollout)
    return experience, metrics


def map_rows(rollout: Rollout, config: PPOConfig, work: Callable[[Rollout], Tensor]) -> Tensor:
    """work (b, T) of all rows, (B, T) on the CPU: each process its share, batched by length."""
    mine = in_length_order(rollout.select(processes.shard(len(rollout))), config.micro_batch_size, work)
    return pad_sequence(processes.gather_rows(mine), batch_first=True)
