"""Held-out prompts during a run: what the policy gets for its answers to them, by which the best policy is kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlhf.data import PromptRow, ReadOptions
from rlhf.inputs import load_prompts
from rlhf.learning.metrics import rollout_metrics
from rlhf.learning.prompts import EncodedPrompt
from rlhf.learning.rewards import Reward
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.rollout_server import RolloutServers
from rlhf.splits import held_out
from stages.ppo.advantages import climbed_scores, penalties, trained_scores
from stages.ppo.experience import judge, sample
from stages.ppo.learner import Learner
from stages.settings import PPOConfig, PPOSettings

DRAW = 1_000_002  # in an iteration's place: the same random numbers at every evaluation, and those of no iteration

SHARE = 0.1  # of a file's prompts, held out where no others are named


def prompts_of(
    settings: PPOSettings, num_prompts: int, options: ReadOptions
) -> tuple[Sequence[PromptRow], Sequence[PromptRow] | None, dict[str, Any]]:
    """Prompts to learn from, those to evaluate on, at most a batch, or None, and what identifies them by source.

    No conversation is among both where they are of one file.
    """
    prompts, data = load_prompts(settings.prompts, "train", num_prompts, settings.seed + 1, options)
    if not settings.eval_every:
        return prompts, None, data
    if settings.prompts and not settings.eval_prompts:
        prompts, measured = held_out(prompts, lambda row: row.prompt, SHARE)
        return prompts, measured[: settings.batch_size], data
    measured, source = load_prompts(
        settings.eval_prompts, "validation", settings.batch_size, settings.seed + 1, options
    )
    return prompts, measured, data | {f"to evaluate on: {name}": found for name, found in source.items()}


def evaluate(
    config: PPOConfig,
    learner: Learner,
    reference: Any | None,
    reward: Reward,
    prompts: Sequence[EncodedPrompt],
    tokenizer: AnyTokenizer,
    servers: RolloutServers | None,
) -> dict[str, float]:
    """Means over one answer to each prompt.

    eval/score, eval/length and eval/kl as reward/score, completion/length and kl/sequence of an iteration; eval/objective,
    which picks the best policy, as reward/objective with kl_coef for β, so that all evaluations of a run are alike.
    """
    rollout = sample(config, learner.policy, prompts, tokenizer, DRAW, servers)
    judged = judge(config, replace(learner, value_model=None), reference, reward, rollout)
    taken = penalties(config, judged.rollout)
    trained = trained_scores(config, learner.moments, judged.scores)
    climbed = climbed_scores(config, learner.moments, trained)
    found = rollout_metrics(
        judged.rollout, judged.scores, judged.ref_logprobs, config.kl_coef, taken, *climbed
    )
    return {
        "eval/score": found["reward/score"],
        "eval/objective": found["reward/objective"],
        "eval/kl": found["kl/sequence"],
        "eval/length": found["completion/length"],
    }
