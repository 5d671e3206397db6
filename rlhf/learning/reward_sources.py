"""Rewards from models, functions or names, as one reward for the completions of a policy."""

import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.data import fingerprint
from rlhf.errors import InputError, first_line
from rlhf.inputs import locate_parent
from rlhf.learning.linear_probe import Heads, load_heads
from rlhf.learning.metrics import OF_ALL_REWARDS
from rlhf.learning.rewards import (
    ForeignRewardModel,
    Reward,
    RewardFunction,
    RewardModel,
    Scorer,
    columns_asked,
    name_of,
)
from rlhf.machine.devices import best_device
from rlhf.models.adapters import reward_model_over
from rlhf.models.checkpoints import check_fits, context_length, load_scalar
from rlhf.models.tokenizer import AnyTokenizer, any_tokenizer, load_tokenizer, same_tokens
from rlhf.store import STAGES, Entry, Store


@dataclass(frozen=True)
class RewardSource:
    """A reward by name: a model with its tokenizer (None: the policy's), or a Python function without one.

    heads: an ensemble of heads on the model's trunk, where it has one. is_loaded: whether the model was read for this
    run, which may then hold its weights as it likes.
    """

    name: str
    source: Any
    tokenizer: AnyTokenizer | None = None
    heads: Heads | None = None
    is_loaded: bool = False

    @property
    def is_model(self) -> bool:
        return hasattr(self.source, "config")

    def reads(self, tokenizer: AnyTokenizer) -> bool:
        """Whether it is a model that reads the tokens of this tokenizer."""
        return self.is_model and (self.tokenizer is None or same_tokens(self.tokenizer, tokenizer))

    def scorer(self, policy_tokenizer: AnyTokenizer, bf16: str, pessimism: float = 0.0) -> Scorer:
        """What PPO asks for scores: by tokens where they are shared, else by text.

        pessimism: k of the heads' lower bound mean − k · std, which takes the score's place where k is above 0.
        """
        if not self.is_model:
            return RewardFunction(self.source, policy_tokenizer)
        if self.tokenizer is None or same_tokens(self.tokenizer, policy_tokenizer):
            return RewardModel(
                self.source, bf16=bf16, end_id=policy_tokenizer.eos_id, heads=self.heads, pessimism=pessimism
            )
        return ForeignRewardModel(self.source, self.tokenizer, policy_tokenizer, bf16)


def reward_sources(reward_model: Any, tokenizers: Any) -> list[RewardSource]:
    """Reward models and functions, one or a list, each with its tokenizer, as rewards with names.

    Raises InputError for an empty list and for another number of tokenizers than of rewards.
    """
    models = list(reward_model) if isinstance(reward_model, list | tuple) else [reward_model]
    if not models:
        raise InputError("reward_model is an empty list; pass a model, a function or several of them")
    if all(isinstance(model, RewardSource) for model in models):
        return number_equal_names(models)
    tokenizer_of_each = (
        list(tokenizers) if isinstance(tokenizers, list | tuple) else [tokenizers] * len(models)
    )
    if len(tokenizer_of_each) != len(models):
        raise InputError(
            f"reward_processing_class: {len(tokenizer_of_each)} tokenizers for {len(models)} rewards"
        )
    sources = [
        RewardSource(name_of(model), model, None if tokenizer is None else any_tokenizer(tokenizer))
        for model, tokenizer in zip(models, tokenizer_of_each, strict=True)
    ]
    return number_equal_names(sources)


def combined_reward(
    rewards: Sequence[RewardSource],
    tokenizer: AnyTokenizer,
    *,
    bf16: str = "auto",
    combine: str = "sum",
    weights: Sequence[float] = (),
    pessimism: float | None = None,
) -> Reward:
    """Rewards as one `Reward`, for completions of the policy that has this tokenizer; by default their mean.

    bf16: auto, on or off, for reward models. combine, weights: see `Reward`. pessimism: k of mean − k · std, of each
    reward model's heads and, by `lower-bound`, of several rewards, there 1 if it is None. Raises InputError for a
    combination of one reward, and for a k that not all reward models here obey.
    """
    k = pessimism or 0.0
    if len(rewards) == 1 and combine != "sum":
        raise InputError(
            f"reward_combine = {combine}: there is one reward, {rewards[0].name}, and nothing to combine it with; name several, "
            "or leave reward_combine at sum"
        )
    if k and combine != "lower-bound":
        _check_heads(rewards, tokenizer, k)
    scorers = {reward.name: reward.scorer(tokenizer, bf16, k) for reward in rewards}
    return Reward(scorers, combine, tuple(weights), 1.0 if pessimism is None else pessimism)


def _check_heads(rewards: Sequence[RewardSource], tokenizer: AnyTokenizer, k: float) -> None:
    """Raises InputError unless there are reward models, and all of them have heads by which to be pessimistic."""
    way_out = "train one with rlhf reward --heads 8, or combine several rewards by lower-bound"
    models = [one for one in rewards if one.is_model]
    without = [one.name for one in models if one.heads is None or not one.reads(tokenizer)]
    if len(without) == len(models):
        raise InputError(
            f"pessimism = {k:g}: no reward model here that reads the policy's tokens has an ensemble of heads; {way_out}"
        )
    if without:
        raise InputError(
            f"pessimism = {k:g}: {', '.join(without)} has no ensemble of heads that reads the policy's tokens and would be "
            f"climbed as it is; {way_out}"
        )


def columns_read(
    rewards: Sequence[RewardSource], rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[Any]]]:
    """The columns of the prompts' rows that each reward function gets, by its name.

    Raises InputError for a function that cannot be called with them, before anything is sampled.
    """
    return {one.name: columns_asked(one.source, rows) for one in rewards if not one.is_model}


def readers_of(
    tokenizer: AnyTokenizer, models: Mapping[str, Any], rewards: Sequence[RewardSource]
) -> dict[str, Any]:
    """All models that read the policy's tokens, by name: the policy, first, others, and those of the rewards that do.

    Raises InputError for one that lacks tokens of the tokenizer.
    """
    readers = {
        **models,
        **{f"reward_model {one.name}": one.source for one in rewards if one.reads(tokenizer)},
    }
    for name, model in readers.items():
        check_fits(tokenizer, model, name)
    return readers


def shortest_context(readers: Mapping[str, Any]) -> tuple[int | None, str]:
    """The most tokens that all of the models read, None where none names a limit; and whose that is, "" of the first's."""
    contexts = {name: context_length(model.config) for name, model in readers.items()}
    limits = {name: most for name, most in contexts.items() if most}
    whose = min(limits, key=limits.__getitem__, default="")
    return limits.get(whose), "" if whose == next(iter(readers)) else whose


def parse_weights(text: str) -> tuple[float, ...]:
    """Numbers with commas between. Raises InputError for anything else."""
    try:
        weights = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        weights = (math.nan,)
    if not all(map(math.isfinite, weights)):
        raise InputError(f"reward_weights: {text} is not a list of numbers with commas between")
    if weights and not any(weights):
        raise InputError(f"reward_weights: {text} leaves no reward to learn from; give one a weight")
    return weights


def load_rewards(
    store: Store, names: str, policy: Any = None, say: Callable[[str], None] = print
) -> tuple[list[RewardSource], dict[str, Entry], dict[str, Any]]:
    """The rewards that --reward names, the store entries among them by role, and what identifies the others.

    policy: a model over whose weights the reward models are put that were trained by adapters over the same.
    Raises InputError where no reward is named, or one that cannot be loaded; StoreError for an entry that is not there.
    """
    sources: list[RewardSource] = []
    parents: dict[str, Entry] = {}
    data: dict[str, Any] = {}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for number, name in enumerate(wanted, start=1):
        if is_function(name):
            function, code = load_function(name)
            sources.append(RewardSource(name.partition(":")[2], function))
            data[f"reward function {name}"] = fingerprint(code)
            continue
        role = "reward" if len(wanted) == 1 else f"reward {number}"
        located = locate_parent(store, name, role)
        folder, entry = located.folder, located.parents.get(role)
        label = entry.name if entry else Path(name).name
        model = reward_model_over(folder, policy) if policy is not None else None
        if policy is not None and model is None:
            say(f"ppo: {name} was not trained by adapters over this policy, so it is held whole beside it")
        model = model or load_scalar(folder)
        model = model.to(best_device())
        sources.append(RewardSource(label, model, load_tokenizer(folder), load_heads(folder), is_loaded=True))
        parents |= located.parents
        data |= located.data
    if not sources:
        raise InputError("no reward; name a reward model or module:function with --reward")
    return number_equal_names(sources), parents, data


def number_equal_names(sources: Sequence[RewardSource]) -> list[RewardSource]:
    """The same rewards, numbered where their names are not distinct or are those of other logged numbers."""
    names = [source.name for source in sources]
    own = {name for name in names if names.count(name) == 1 and name not in OF_ALL_REWARDS}
    taken, found = {*own, *OF_ALL_REWARDS}, []
    for place, source in enumerate(sources, start=1):
        if source.name not in own:
            numbered = (f"{source.name}-{number}" for number in itertools.count(place))
            source = replace(source, name=next(name for name in numbered if name not in taken))
            taken.add(source.name)
        found.append(source)
    return found


def is_function(name: str) -> bool:
    """Whether a reward is named as module:function rather than as a model."""
    module, colon, _ = name.partition(":")
    return bool(colon) and module.split("/")[0] not in STAGES and not os.path.exists(name)


def load_function(name: str) -> tuple[Callable[..., Any], str]:
    """A function named module:function, importable from the current folder too, and its module's source code.

    Raises InputError where there is none.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        function = getattr(found, attribute)
    except Exception as problem:  # whatever the module's own code raises, too
        tells = isinstance(problem, ImportError | AttributeError | SyntaxError)
        kind = "" if tells else f"{type(problem).__name__}: "
        raise InputError(
            f"reward {name}: {kind}{first_line(problem)}; write module:function, the module importable from this folder"
        ) from problem
    if not callable(function):
        raise InputError(f"reward {name}: not a function")
    return function, _code_of(found, name)


def _code_of(module: ModuleType, name: str) -> str:
    """The text of a module's file, be it in another encoding or compiled. Raises InputError for a module without one."""
    try:
        return Path(str(module.__file__)).read_text(errors="backslashreplace")
    except (AttributeError, OSError):
        raise InputError(
            f"reward {name}: {module.__name__} has no file of its own, by which a result would be known again; "
            "write a module around it"
        ) from None
