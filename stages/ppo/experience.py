"""What an iteration of PPO learns from: sampled completions, their scores, advantages and returns.

Shapes: B completions of an iteration, b of a part, S tokens of a whole row, C channels, T tokens of the longest
completion, M rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.errors import TrainingError
from rlhf.learning.metrics import component_metrics, rollout_metrics, value_metrics
from rlhf.learning.passes import completion_logprobs, completion_values
from rlhf.learning.prompts import EncodedPrompt
from rlhf.learning.rewards import Reward
from rlhf.learning.rl import gae, kl_k1, kl_k3, kl_shaped, rescale, whiten
from rlhf.learning.rollout import Experience, Rollout, in_length_order
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sampling.generate import SamplingSettings, generate
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
    sampling = SamplingSettings(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
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
def gather_experience(
    config: PPOConfig, learner: Learner, reference: Any | None, reward: Reward, rollout: Rollout
) -> tuple[Experience, dict[str, float]]:
    """Scores, KL-shaped rewards, advantages and returns of a rollout; nothing here carries a gradient."""
    policy, value_model, mask = learner.policy.eval(), learner.value_model.eval(), rollout.mask
    with autocast(policy.device, config.bf16):
        with reference_model(policy, reference) as frozen:
            ref_logprobs = map_rows(
                rollout, config, lambda part: completion_logprobs(frozen, part, config.temperature)
            )
        values = map_rows(rollout, config, lambda part: completion_values(value_model, part))  # (B, T)
    mine = rollout.select(processes.shard(len(rollout)))
    components = torch.stack(processes.gather_rows(list(reward.components(mine))))  # (B, M)
    scores = reward.combined(components)  # (B,)
    if not torch.isfinite(scores).all():
        raise TrainingError(
            f"iteration {learner.iteration}: the reward gave a score that is not a finite number"
        )

    kl = (kl_k1 if config.kl_estimator == "k1" else kl_k3)(rollout.logprobs, ref_logprobs)  # (B, T)
    metrics = rollout_metrics(rollout, scores, ref_logprobs, learner.beta.value, config.missing_eos_penalty)
    metrics |= component_metrics(reward.scorers, components)
    if config.normalize_scores:
        learner.moments.update(scores)
        scores = learner.moments.normalize(scores)
    if config.clip_scores:
        scores = scores.clamp(-config.clip_scores, config.clip_scores)
    scores = torch.where(rollout.ended, scores, scores - config.missing_eos_penalty)

    rewards = kl_shaped(scores, kl, mask, learner.beta.value)  # Ouyang et al. 2022, eq. 2
    if config.whiten_rewards:
        rewards = rescale(rewards, mask)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)  # Schulman et al. 2016, eq. 16
    metrics |= value_metrics(values, returns, mask)
    return Experience(rollout, values, whiten(advantages, mask), returns), metrics


def map_rows(rollout: Rollout, config: PPOConfig, work: Callable[[Rollout], Tensor]) -> Tensor:
    """work (b, T) of all rows, (B, T) on the CPU: each process its share, batched by length."""
    mine = in_length_order(rollout.select(processes.shard(len(rollout))), config.micro_batch_size, work)
    return pad_sequence(processes.gather_rows(mine), batch_first=True)
