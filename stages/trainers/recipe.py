"""What a pipeline's recipe asks of its stages, refused before the first of them trains and not when its turn comes."""

from collections.abc import Mapping
from typing import Any

from rlhf.data.places import places
from rlhf.errors import InputError
from rlhf.inputs import check_one_way
from rlhf.learning.reward_sources import parse_weights
from rlhf.models.chat_template import parse_arguments
from stages.ppo.checks import check
from stages.settings import PPOSettings, RewardSettings
from stages.steps import settings_of
from stages.trainers.parts import trackers

FILES = ("validation_data", "eval_prompts")  # that a stage of a pipeline reads of itself


def check_tables(recipe: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, type]) -> None:
    """Raises InputError for a table whose settings its stage would refuse: in themselves, together, or by what is not here."""
    for step, kind in kinds.items():
        try:
            settings: Any = settings_of(kind, recipe, step)
            if isinstance(settings, PPOSettings):
                check(settings)
                _check_ppo(settings, settings_of(RewardSettings, recipe, "reward"))
            parse_arguments(getattr(settings, "template_kwargs", ""))
            trackers(getattr(settings, "report_to", ""))
            check_one_way(getattr(settings, "last_blocks", 0), getattr(settings, "lora_rank", 0))
            for name in filter(None, (getattr(settings, name, None) for name in FILES)):
                places(name)
        except InputError as problem:
            said = f"{problem}".removeprefix(f"{step}: ")
            raise InputError(said if said.startswith("recipe") else f"recipe, [{step}]: {said}") from None


def _check_ppo(ppo: PPOSettings, reward: RewardSettings) -> None:
    """Raises InputError for what PPO cannot do with the reward model that this recipe trains."""
    parse_weights(ppo.reward_weights)
    if ppo.pessimism and not reward.heads:
        raise InputError(
            f"pessimism = {ppo.pessimism:g}: the reward model has no ensemble of heads; set heads in [reward], or leave it out"
        )
    if ppo.extend:
        raise InputError(
            f"extend = {ppo.extend}: a pipeline makes a run of its own; make that one longer by rlhf ppo --extend"
        )
