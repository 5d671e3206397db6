"""What PPO starts from: prompts as tokens, rewards from models, functions or names, pretraining text."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlhf.data import Prompt, as_messages, fingerprint, read_texts
from rlhf.errors import InputError
from rlhf.inputs import model_of, packed_tokens
from rlhf.learning.rewards import ForeignRewardModel, Reward, RewardFunction, RewardModel, Scorer, name_of
from rlhf.learning.training import best_device
from rlhf.models.adapters import reward_over
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import AnyTokenizer, ForeignTokenizer, load_tokenizer, same_tokens
from rlhf.starter.corpus import corpus
from rlhf.store import STAGES, Entry, Store
from stages.ppo.learner import Pretraining
from stages.settings import PPOConfig

PTX_LENGTH = 128  # tokens of a pretraining row, fewer where the context is shorter


@dataclass(frozen=True)
class PromptRow:
    """A prompt and its tokens in the policy's chat format."""

    prompt: Prompt
    tokens: list[int]


@dataclass(frozen=True)
class RewardSource:
    """A reward by name: a model with its tokenizer (None: the policy's), or a Python function without one."""

    name: str
    source: Any
    tokenizer: AnyTokenizer | None = None

    @property
    def is_model(self) -> bool:
        return hasattr(self.source, "config")

    def reads(self, tokenizer: AnyTokenizer) -> bool:
        """Whether it is a model that reads the tokens of this tokenizer."""
        return self.is_model and (self.tokenizer is None or same_tokens(self.tokenizer, tokenizer))

    def scorer(self, policy_tokenizer: AnyTokenizer, bf16: str) -> Scorer:
        """What PPO asks for scores: by tokens where they are shared, else by text."""
        if not self.is_model:
            return RewardFunction(self.source, policy_tokenizer)
        if self.tokenizer is None or same_tokens(self.tokenizer, policy_tokenizer):
            return RewardModel(self.source, bf16=bf16)
        return ForeignRewardModel(self.source, self.tokenizer, policy_tokenizer, bf16)


def any_tokenizer(tokenizer: Any) -> AnyTokenizer:
    """One of our tokenizers, or a Hugging Face tokenizer in our clothes."""
    return ForeignTokenizer(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer


def prompt_rows(
    prompts: Iterable[Prompt], tokenizer: AnyTokenizer, policy: Any, max_new_tokens: int
) -> list[PromptRow]:
    """Prompts with their tokens; raises InputError if one leaves no room for max_new_tokens in the policy's context."""
    context = getattr(policy.config, "max_position_embeddings", None)
    rows = [PromptRow(prompt, tokenizer.encode_prompt(as_messages(prompt))) for prompt in prompts]
    for number, row in enumerate(rows, start=1):
        if context and len(row.tokens) + max_new_tokens + 1 > context:
            raise InputError(
                f"prompt {number} has {len(row.tokens)} tokens and max_new_tokens is {max_new_tokens}; with an end token "
                f"they exceed the context of {context}: shorten the prompt or lower max_new_tokens"
            )
    if not rows:
        raise InputError("no prompts; name a file with --prompts")
    return rows


def prompt_order(num_prompts: int, first: int, num_episodes: int, seed: int) -> list[int]:
    """Prompts of the episodes from `first` on: consecutive slices of one random order per pass over all prompts."""
    chosen: list[int] = []
    for episode in range(first, first + num_episodes):
        epoch, place = divmod(episode, num_prompts)
        if not chosen or place == 0:
            order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        chosen.append(int(order[place]))
    return chosen


def reward_sources(reward_model: Any, tokenizers: Any) -> list[RewardSource]:
    """Reward models and functions, one or a list, each with its tokenizer, as rewards with names."""
    models = list(reward_model) if isinstance(reward_model, list | tuple) else [reward_model]
    if all(isinstance(model, RewardSource) for model in models):
        return models
    given = list(tokenizers) if isinstance(tokenizers, list | tuple) else [tokenizers] * len(models)
    if len(given) != len(models):
        raise InputError(f"reward_processing_class: {len(given)} tokenizers for {len(models)} rewards")
    sources = [
        RewardSource(name_of(model), model, None if tokenizer is None else any_tokenizer(tokenizer))
        for model, tokenizer in zip(models, given, strict=True)
    ]
    return distinct(sources)


def joined(
    rewards: Sequence[RewardSource], tokenizer: AnyTokenizer, config: PPOConfig | None = None
) -> Reward:
    """Rewards as one, for completions of the policy that has this tokenizer; by default their mean."""
    config = config or PPOConfig()
    return Reward(
        {reward.name: reward.scorer(tokenizer, config.bf16) for reward in rewards},
        config.reward_combine,
        parsed_weights(config.reward_weights),
        config.reward_pessimism,
    )


def parsed_weights(text: str) -> tuple[float, ...]:
    """Numbers with commas between. Raises InputError for anything else."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"reward_weights: {text} is not a list of numbers with commas between") from None


def rewards_named(
    store: Store, names: str, policy: Any = None, say: Callable[[str], None] = print
) -> tuple[list[RewardSource], dict[str, Entry], dict[str, Any]]:
    """The rewards that --reward names, the store entries among them by role, and the fingerprints of the functions.

    policy: a model over whose weights the reward models are put that were trained by adapters over the same.
    """
    sources, parents, data = [], {}, {}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for number, name in enumerate(wanted, start=1):
        if is_function(name):
            function, code = load_function(name)
            sources.append(RewardSource(name.partition(":")[2], function))
            data[f"reward function {name}"] = fingerprint(code)
            continue
        folder, entry = model_of(store, name)
        label = entry.name if entry else Path(name).name
        model = reward_over(folder, policy) if policy is not None else None
        if policy is not None and model is None:
            say(f"ppo: {name} was not trained by adapters over this policy, so it is held whole beside it")
        model = model or load_scalar(folder)
        sources.append(RewardSource(label, model.to(best_device()), load_tokenizer(folder)))
        if entry:
            parents["reward" if len(wanted) == 1 else f"reward {number}"] = entry
    if not sources:
        raise InputError("no reward; name a reward model or module:function with --reward")
    return distinct(sources), parents, data


def distinct(sources: Sequence[RewardSource]) -> list[RewardSource]:
    """The same rewards, numbered where their names are not distinct."""
    names = [source.name for source in sources]
    return [
        replace(source, name=f"{source.name}-{place}") if names.count(source.name) > 1 else source
        for place, source in enumerate(sources, start=1)
    ]


def is_function(name: str) -> bool:
    """Whether a reward is named as module:function rather than as a model."""
    module, colon, _ = name.partition(":")
    return bool(colon) and module.split("/")[0] not in STAGES and not Path(name).exists()


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
    except (ImportError, AttributeError) as problem:
        raise InputError(
            f"reward {name}: {problem}; write module:function, the module importable from this folder"
        ) from None
    if not callable(function):
        raise InputError(f"reward {name}: not a function")
    return function, Path(str(found.__file__)).read_text()


def pretraining_text(source: str | None, seed: int) -> list[str]:
    """Text for PPO-ptx: of a file or data set, or the starter corpus."""
    return read_texts(source) if source else corpus(200_000, seed)


def pretraining_rows(
    config: PPOConfig, tokenizer: AnyTokenizer, texts: Iterable[Any] | None, policy: Any
) -> Pretraining | None:
    """The texts as one row of tokens to draw from; None where γ is 0. Raises InputError where there are too few."""
    if not config.ptx_coef:
        if texts is not None:
            raise InputError(
                "pretrain_dataset is given but ptx_coef is 0; set it, such as to the paper's 27.8"
            )
        return None
    if texts is None:
        raise InputError("ptx_coef is set: PPO-ptx needs texts, pretrain_dataset")
    length = min(PTX_LENGTH, getattr(policy.config, "max_position_embeddings", None) or PTX_LENGTH) - 1
    tokens = packed_tokens(tokenizer, [row["text"] if isinstance(row, dict) else row for row in texts])
    if len(tokens) <= length:
        raise InputError(f"pretraining text: {len(tokens)} tokens; PPO-ptx needs more than {length}")
    return Pretraining(tokens, length, config.seed)
