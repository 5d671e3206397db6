"""Iterations of our PPO over given tokens, with its phases in the hands of who measures them."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rlhf.learning.metrics import MetricLog
from rlhf.learning.prompts import EncodedPrompt
from rlhf.learning.rewards import Reward, RewardModel
from stages.ppo import PPOConfig, loop
from stages.ppo.ahead import Sampling
from stages.ppo.learner import Learner
from stages.ppo.watching.callbacks import Callbacks


def run(
    settings: PPOConfig,
    learner: Learner,
    reference: Any,
    scores: Any,
    rows: Sequence[list[int]],
    timed: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Train to the end of `settings` on prompts of these tokens, against a reward model that gives `scores`.

    timed: is given the name of a phase (sample, judge, update) and the function that does it; what it returns is called.
    """
    tokenizer: Any = SimpleNamespace(stop_ids=frozenset(), pad_id=0, eos_id=0)  # no row ends early
    sampling = Sampling(settings, [EncodedPrompt("", row) for row in rows], tokenizer)
    with (
        patch.object(sampling, "rollout", timed("sample", sampling.rollout)),
        patch.object(loop, "judge", timed("judge", loop.judge)),
        patch.object(loop, "update", timed("update", loop.update)),
    ):
        loop.train(
            settings, learner, reference, Reward({"reward": RewardModel(scores)}), sampling, log=MetricLog(None),
            callbacks=Callbacks((), settings, None),
        )  # fmt: skip
