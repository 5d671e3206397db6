"""The private interfaces of trl and transformers that the project leans on, each with what breaks where it is gone.

A failure here names the package and version; pyproject.toml's upper bounds keep the next major version out.
"""

import inspect
from importlib.metadata import version

import pytest
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification, GenerationMixin, PreTrainedModel, Trainer
from trl import RewardTrainer

HOOKS = [
    ("trl", RewardTrainer, "_prepare_dataset", "trl tokenizes whole rankings as if they were pairs"),
    (
        "transformers",
        Trainer,
        "_set_signature_columns_if_needed",
        "the collator gets rows without their columns",
    ),
    ("transformers", Trainer, "_wrap_model", "several processes average gradients instead of summing them"),
    ("transformers", Trainer, "_remove_unused_columns", "several processes have no rows to share out"),
    ("transformers", Trainer, "_clip_grad_norm", "the norm logged of a sharded model is one process's"),
    ("transformers", Trainer, "_save", "a sharded model is saved with one process's part of it"),
    (
        "transformers",
        Trainer,
        "_save_optimizer_and_scheduler",
        "one process's part of Adam's moments is saved",
    ),
    ("transformers", Trainer, "_load_from_checkpoint", "a sharded model cannot go on from a checkpoint"),
    ("transformers", Trainer, "_load_best_model", "a sharded model ends with its last weights, not its best"),
    (
        "accelerate",
        Accelerator,
        "_is_accelerate_prepared",
        "the model of several processes is wrapped for averages",
    ),
    (
        "transformers",
        PreTrainedModel,
        "_init_weights",
        "our GPT starts from transformers' weights, not GPT-2's",
    ),
    (
        "transformers",
        PreTrainedModel,
        "_tied_weights_keys",
        "the tied head is saved twice or reported missing",
    ),
    (
        "transformers",
        PreTrainedModel,
        "_keys_to_ignore_on_load_unexpected",
        "published GPT-2 files warn of their masks",
    ),
    (
        "transformers",
        PreTrainedModel,
        "_keys_to_ignore_on_save",
        "trainers report the shared head as missing",
    ),
    (
        "transformers",
        type(AutoModelForSequenceClassification._model_mapping),
        "_extra_content",
        "families without a sequence classifier of their own (Cohere, Granite) cannot be reward models",
    ),
    (
        "transformers",
        GenerationMixin,
        "_supports_logits_to_keep",
        "log-probabilities take logits of whole prompts",
    ),
]


@pytest.mark.parametrize("package, owner, name, without", HOOKS, ids=[hook[2] for hook in HOOKS])
def test_a_private_hook_is_where_we_use_it(package, owner, name, without):
    there = hasattr(owner, name) or name in inspect.getsource(owner)
    assert there, f"{package} {version(package)} has no {owner.__name__}.{name}: {without}"


def test_trl_asks_the_hooks_that_we_replace():
    source = inspect.getsource(RewardTrainer.__init__)
    assert "_prepare_dataset" in source, f"trl {version('trl')} prepares data elsewhere"
    asks = inspect.getsource(Trainer)
    assert "self._set_signature_columns_if_needed()" in asks and "self._signature_columns" in asks
