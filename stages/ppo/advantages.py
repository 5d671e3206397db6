"""From scores to what PPO learns from: penalties, the KL, advantages with or without a value model, who is left out.

Shapes: B completions of an iteration, T tokens of the longest, K completions of a prompt, which stand together.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf.learning.rl import (
    RunningMoments,
    gae,
    grpo,
    kl_k1,
    kl_k3,
    kl_shaped,
    overlong_penalty,
    reinforce_plus_plus,
    rescale,
    rloo,
    whiten,
)
from rlhf.learning.rollout import Experience, Rollout
from stages.settings import PPOConfig

OF_WHOLE_COMPLETIONS = {
    "rloo": rloo,
    "grpo": grpo,
}  # one number per completion, beside the others of its prompt


def penalties(config: PPOConfig, rollout: Rollout) -> Tensor:
    """What is taken from the scores, (B,): for not ending, and for coming near max_new_tokens."""
    taken = config.missing_eos_penalty * (~rollout.ended).float()
    if config.overlong_buffer:
        lengths = rollout.mask.sum(1)
        taken += config.overlong_penalty * overlong_penalty(
            lengths, config.max_new_tokens, config.overlong_buffer
        )
    return taken


def trained_scores(config: PPOConfig, moments: RunningMoments, scores: Tensor) -> Tensor:
    """Scores (B,) as the policy learns from them, before penalties: normalised and clipped as the settings say."""
    if config.normalize_scores:
        scores = moments.normalize(scores)
    if config.clip_scores:
        scores = scores.clamp(-config.clip_scores, config.clip_scores)
    return scores


def climbed_scores(config: PPOConfig, moments: RunningMoments, trained: Tensor) -> tuple[Tensor, float]:
    """The trained scores (B,) in the reward's own unit, and how many of it make one of the trained.

    Penalties and the KL are in the trained unit. In the reward's unit evaluations of one run stay comparable while the
    mean of all scores so far moves.
    """
    if not config.normalize_scores:
        return trained, 1.0
    return trained * moments.std + moments.mean, moments.std


def experience_of(
    config: PPOConfig, rollout: Rollout, scores: Tensor, ref_logprobs: Tensor, values: Tensor, beta: float
) -> Experience:
    """What an update learns from: of all rows, or of those that the filters leave.

    scores (B,), penalties taken; ref_logprobs, values (B, T), the latter zeros without a value model.
    """
    mask, in_loss = rollout.mask, config.kl_in == "loss"
    kl = (kl_k1 if config.kl_estimator == "k1" else kl_k3)(rollout.logprobs, ref_logprobs)  # (B, T)
    rewards = kl_shaped(scores, kl, mask, 0.0 if in_loss else beta)  # Ouyang et al. 2022, eq. 2
    if config.whiten_rewards:
        rewards = rescale(rewards, mask)
    advantages, returns = _advantages(config, rewards, values, mask)
    experience = Experience(rollout, values, advantages, returns, ref_logprobs if in_loss else None)
    left = learned_rows(config, rollout, scores)
    if not left.all():
        experience = experience.select(left.nonzero()[:, 0])
    if config.advantages in OF_WHOLE_COMPLETIONS:
        return experience
    return replace(experience, advantages=whiten(experience.advantages, experience.rollout.mask))


def _advantages(config: PPOConfig, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages before whitening, and returns, both (B, T)."""
    if config.advantages == "gae":
        return gae(rewards, values, mask, config.gamma, config.lam)  # Schulman et al. 2016, eq. 16
    if config.advantages == "reinforce++":
        return reinforce_plus_plus(rewards, mask, config.gamma), values
    of_completion = OF_WHOLE_COMPLETIONS[config.advantages](rewards.sum(1), config.completions_per_prompt)
    return torch.where(mask, of_completion[:, None], 0.0), values


def learned_rows(config: PPOConfig, rollout: Rollout, scores: Tensor) -> Tensor:
    """Which completions an update learns from, (B,) bool (Yu et al. 2025, sections 3.2 and 3.4)."""
    left = torch.ones(len(rollout), dtype=torch.bool)
    if config.filter_overlong:
        left &= rollout.ended
    if config.filter_equal_scores:
        num_each = config.completions_per_prompt
        groups, said = scores.view(-1, num_each), rollout.completions
        # Reward models score one text differently, by rounding, in batches of other shapes.
        differ = [[one != said[i] for one in said[i : i + num_each]] for i in range(0, len(said), num_each)]
        tells = (groups != groups[:, :1]) & torch.tensor(differ).view_as(groups)
        left &= tells.any(1).repeat_interleave(num_each)
    return left
