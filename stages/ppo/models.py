"""The models of PPO, policy, reference and value model, and what they share in memory."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlhf.errors import InputError
from rlhf.learning.passes import has_plain_head
from rlhf.learning.reward_sources import RewardSource
from rlhf.learning.training import shard_model
from rlhf.machine import processes
from rlhf.machine.devices import best_device, is_autocast
from rlhf.models.adapters import adapted, copy_sharing_frozen, is_adapted, train_adapters
from rlhf.models.checkpoints import scalar_from_policy
from rlhf.models.last_blocks import Lower, freeze_lower
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.models.trunk import has_scalar_head, unwrapped
from rlhf.sampling.decoder import check_sampling, is_described
from rlhf.sampling.trial import check_trainable
from rlhf.sharding import BYTES_HELD, BYTES_TRAINED, is_sharded, is_wanted, whole
from stages.ppo.given import check_tied_head, in_float32
from stages.settings import PPOConfig
from stages.trainers.frozen import hold_products_in_bfloat16


@dataclass(frozen=True)
class Models:
    """What PPO trains and compares with. reference: None for the policy with its adapters off.

    lower: the frozen part that policy and reference share, and with them every model whose own was equal to it.
    """

    policy: Any
    reference: Any | None
    value_model: Any | None
    lower: Lower | None = None


def assemble_models(
    policy: Any,
    reference: Any,
    value_model: Any,
    rewards: Sequence[RewardSource],
    tokenizer: AnyTokenizer,
    *,
    peft_config: Any,
    last_blocks: int,
    needs_values: bool = True,
    is_divided: bool = False,
    bf16: str = "auto",
    say: Callable[[str], None],
) -> Models:
    """The models as the trainer's arguments want them: adapters, copies, a frozen lower part, a value model if needed.

    With last_blocks the reward models' lower parts are given up, too, where they are the policy's. is_divided: copies are
    divided between the processes as soon as they are made, so that no more than one is held whole; no lower part is shared
    then. bf16: on, off or auto; a reference made here is held as it will be multiplied.
    Raises InputError for last_blocks with adapters, and for a value_model that is not needed.
    """
    if last_blocks and (peft_config is not None or hasattr(policy, "peft_config")):
        raise InputError("last_blocks and adapters are two ways to train less than all; choose one of them")
    if peft_config is None:  # else peft has its adapters in float32, over a base of any format
        in_float32(policy, "the policy", say)
    lower = freeze_lower(policy, last_blocks) if last_blocks else None
    shared = None if is_divided else lower
    was_given = reference is not None
    policy, reference = policy_and_reference(policy, reference, peft_config, shared)
    if reference is not None and not was_given:
        hold_as_multiplied(reference, bf16, policy)
    if is_divided and reference is not None:
        shard_model(reference)
    for reward in rewards:
        if shared and has_value_head(reward):
            shared.share_with(reward.source, policy)
    if not needs_values:
        if value_model is not None:
            raise InputError("value_model is given, but these advantages need none; leave it out")
        return Models(policy, reference, None, shared)
    value_model = value_model or value_model_for(policy, tokenizer, rewards, say)
    in_float32(value_model, "the value model", say)
    if shared and not shared.share_with(value_model, policy):
        say(
            "ppo: the value model's lower part is not the policy's, so it runs a whole one of its own; "
            "reward models share it when trained from this policy with the same last_blocks"
        )
    if lower:
        freeze_lower(value_model, last_blocks)
    if is_divided:
        shard_model(value_model)
    return Models(policy, reference, value_model, shared)


def is_to_be_divided(
    config: PPOConfig, policy: Any, rewards: Sequence[RewardSource], peft_config: Any
) -> bool:
    """Whether the weights of all of a run's models are to be divided between the processes, before copies are made.

    Raises InputError for `on` with one process.
    """
    trains_all = peft_config is None and not is_adapted(policy) and not config.last_blocks
    size = sum(p.numel() for p in policy.parameters())
    trained = size * (BYTES_TRAINED if trains_all else BYTES_HELD) * (2 if config.advantages == "gae" else 1)
    scoring = sum(p.numel() for r in rewards if r.is_model for p in r.source.parameters())
    return is_wanted(config.shard, trained + BYTES_HELD * (scoring + (size if trains_all else 0)))


def hold_as_multiplied(model: Any, bf16: str, *learning: Any) -> None:
    """A frozen model's weights in the format of its products; where that is not theirs, it runs in autocast regions only."""
    if is_autocast(best_device(), bf16):
        has_plain_head(model)  # looks at a pass outside of one, once per model
        hold_products_in_bfloat16(model, learning)


def place(
    models: Models, rewards: Sequence[RewardSource], is_divided: bool, bf16: str, say: Callable[[str], None]
) -> None:
    """The models, those of the rewards too, on their device, divided between the processes where they are not yet.

    Reward models that were read for this run are held as they will be multiplied. Raises InputError for a policy that
    cannot be sampled as it is trained.
    """
    for reward in rewards:
        if reward.is_loaded:
            hold_as_multiplied(reward.source, bf16, models.policy, models.value_model)
    scoring = [reward.source for reward in rewards if reward.is_model]
    for model in (models.policy, models.reference, models.value_model, *scoring):
        if model is None or is_sharded(model):
            continue
        shard_model(model) if is_divided else model.to(best_device())
    if is_divided:
        say(f"ppo: each of {processes.world_size()} processes holds its part of the weights")
    with whole(models.policy) as plain:
        check_sampling(plain)
    if not is_divided and not is_described(models.policy):
        check_trainable(models.policy, in_training=False)


def policy_and_reference(
    model: Any, reference: Any, peft_config: Any, lower: Lower | None
) -> tuple[Any, Any]:
    """The policy, with adapters if asked for, and its frozen reference; None for the policy without its adapters.

    Raises InputError where the reference is the policy itself, and for adapters over adapters.
    """
    if reference is model:
        raise InputError(
            "ref_model is the model itself, which will learn; leave it out to have a frozen copy made"
        )
    if peft_config is not None:
        if hasattr(model, "peft_config"):
            raise InputError("model has adapters already: merge them first, or leave peft_config out")
        policy = adapted(model, peft_config)
        check_tied_head(policy)
    else:
        policy = model
        check_tied_head(policy)
        if lower and reference is not None:
            lower.share_with(reference, policy)
        reference = copy_sharing_frozen(model, [model]) if reference is None else reference
    if reference is not None:
        reference.eval().requires_grad_(False)
    return policy, reference


@contextmanager
def reference_model(policy: Any, reference: Any | None) -> Iterator[Any]:
    """The reference, or where there is none the policy with its adapters off."""
    if reference is not None:
        with whole(reference) as plain:
            yield plain
        return
    with whole(policy) as plain, plain.disable_adapter():
        yield plain


def has_value_head(reward: RewardSource) -> bool:
    """Whether the reward is a model that could give a value per token."""
    return reward.is_model and has_scalar_head(unwrapped(reward.source))


def value_model_for(
    policy: Any, tokenizer: AnyTokenizer, rewards: Sequence[RewardSource], say: Callable[[str], None]
) -> Any:
    """The first reward model that reads the policy's tokens, copied; else the policy's trunk with a new head.

    What the reward model shares with the policy and does not learn, the copy shares, too; of adapters only they learn.
    """
    for reward in rewards:
        if reward.reads(tokenizer) and has_value_head(reward):
            model = copy_sharing_frozen(reward.source, [policy])
            return train_adapters(model) if is_adapted(model) else model.requires_grad_(True)
    say(
        "ppo: no reward model reads the policy's tokens: the value model is the policy's trunk with a new head"
    )
    if is_adapted(policy):
        policy = copy.deepcopy(policy).merge_and_unload()
    return scalar_from_policy(policy).requires_grad_(True)
