"""All that changes during PPO: what a stopped run goes on with, bit for bit, and what is saved at the end."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.learning.optimizers import Optimizers, adamw
from rlhf.learning.rl import AdaptiveKL, FixedKL, KLBudget, RunningMoments
from rlhf.learning.training import (
    EMA,
    load_weights,
    restore_runtime,
    runtime_state,
    trainable_weights,
)
from rlhf.models.adapters import save_plain
from rlhf.models.checkpoints import reward_offset
from rlhf.models.last_blocks import Lower
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sharding import whole
from stages.ppo.given import check_learns
from stages.settings import PPOConfig


@dataclass
class Learner:
    """Policy and value model with their optimizers, and every number that the next iteration depends on."""

    policy: Any
    value_model: Any | None  # None where advantages need no values
    policy_optimizer: Optimizers
    value_optimizer: Optimizers | None
    beta: FixedKL
    moments: RunningMoments
    average: EMA | None
    generator: torch.Generator
    lower: Lower | None = None  # what policy, reference and, where equal, value and reward model share
    iteration: int = 0
    best: float = -math.inf  # objective of an evaluation so far

    def set_lr_factors(self, policy: float, value: float) -> None:
        """Scale the learning rates of policy and value model to these factors of their peaks."""
        self.policy_optimizer.set_lr_factor(policy)
        if self.value_optimizer:
            self.value_optimizer.set_lr_factor(value)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": trainable_weights(self.policy),
            "value_model": trainable_weights(self.value_model) if self.value_model is not None else None,
            "value_offset": reward_offset(self.value_model) if self.value_model is not None else 0.0,
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "value_optimizer": self.value_optimizer.state_dict() if self.value_optimizer else None,
            "beta": self.beta.state_dict(),
            "moments": self.moments.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "generator": self.generator.get_state(),
            "runtime": runtime_state(),
            "iteration": self.iteration,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_weights(self.policy, state["policy"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        if self.value_model is not None and self.value_optimizer:
            load_weights(self.value_model, state["value_model"])
            # States from before there was one are of values that learned without it.
            if (offset := state.get("value_offset", 0.0)) != reward_offset(self.value_model):
                self.value_model.config.reward_offset = offset
            self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.beta.load_state_dict(state["beta"])
        self.moments.load_state_dict(state["moments"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.generator.set_state(state["generator"])
        restore_runtime(state["runtime"])
        self.iteration, self.best = state["iteration"], state.get("best", -math.inf)

    def save(self, tokenizer: AnyTokenizer, folder: Path | None) -> None:
        """The policy into `folder`, the value model beside it under value/, averaged weights under ema/.

        Adapters are merged into the weights: every folder loads as a plain model. Every process calls it, those that
        write nothing with None.
        """
        self.save_policy(tokenizer, folder)
        if self.value_model is not None:
            _save(self.value_model, tokenizer, folder and folder / "value")
        if self.average:
            with self.average.in_place_of(self.policy):
                _save(self.policy, tokenizer, folder and folder / "ema")

    def save_policy(self, tokenizer: AnyTokenizer, folder: Path | None) -> None:
        """The policy alone, as `save` does it."""
        _save(self.policy, tokenizer, folder)


def _save(model: Any, tokenizer: AnyTokenizer, folder: Path | None) -> None:
    with whole(model) as plain:
        if folder:
            save_plain(plain, folder)
            tokenizer.save(folder)


def kl_coefficient(config: PPOConfig) -> FixedKL:
    """β as the configuration wants it: fixed, kept within a budget, or steered towards a target."""
    tightens = bool(config.kl_budget) and config.kl_budget_action == "tighten"
    if config.adaptive_kl:
        return AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
    return KLBudget(config.kl_coef, config.kl_budget) if tightens else FixedKL(config.kl_coef)


def new_learner(
    config: PPOConfig, policy: Any, value_model: Any | None, lower: Lower | None = None
) -> Learner:
    """A learner at iteration 0; Adam's ε is 1e-5 as in the earlier code lineage. Raises InputError for frozen models."""
    check_learns("model", policy)
    if value_model is not None:
        check_learns("value_model", value_model)
    return Learner(
        policy=policy,
        value_model=value_model,
        policy_optimizer=adamw(policy.parameters(), config.lr, eps=config.adam_eps),
        value_optimizer=(
            adamw(value_model.parameters(), config.value_lr, eps=config.adam_eps)
            if value_model is not None
            else None
        ),
        beta=kl_coefficient(config),
        moments=RunningMoments(),
        average=EMA(policy, config.ema_decay) if config.ema_decay else None,
        generator=torch.Generator().manual_seed(config.seed),
        lower=lower,
    )


def summary(history: list[dict[str, float]], seconds: float) -> dict[str, float]:
    """What the manifest keeps: score and KL of the last five iterations, the best evaluation, completions learned from, seconds."""
    last = history[-5:]
    learned = [row for row in history if "policy/lr" in row]  # a KL budget ends without an update
    measured = [row for row in history if "eval/objective" in row]
    best = max(measured, key=lambda row: row["eval/objective"]) if measured else None
    return {
        "reward": round(sum(row["reward/score"] for row in last) / len(last), 4),
        "kl": round(sum(row["kl/sequence"] for row in last) / len(last), 4),
        "episodes": int(learned[-1]["episodes"]) if learned else 0,
        **(
            {"best_objective": round(best["eval/objective"], 4), "best_episodes": int(best["episodes"])}
            if best
            else {}
        ),
        "train_s": round(seconds, 1),
    }
