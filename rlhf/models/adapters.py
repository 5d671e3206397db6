"""LoRA adapters (Hu et al. 2022): what a stage trains instead of all weights, and several models over one base.

A model with adapters is saved merged, as a plain checkpoint. A reward model also keeps its adapter and head beside it,
with the hash of the trunk they belong to, so that PPO can put them over a policy's own weights: policy, reference,
reward and value model then hold one base.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.models.checkpoints import new_scalar_model
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.trunk import trunk_of

FOLDER = "adapter"  # in a checkpoint's folder


def lora(rank: int, head: str | None = None) -> Any:
    """peft's configuration of adapters on all linear layers of the trunk; head: a layer trained whole beside them."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=head,
        modules_to_save=[head] if head else None,
    )


def with_adapters(model: Any, rank: int, head: str | None = None) -> Any:
    """The model, of which from now on only new adapters (and the head) learn."""
    from peft import get_peft_model

    return get_peft_model(model, lora(rank, head))


def is_adapted(model: Any) -> bool:
    return hasattr(model, "merge_and_unload")


def save_plain(model: Any, folder: Path) -> None:
    """The model as a plain checkpoint, adapters merged into a copy of its weights."""
    if is_adapted(model):
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)


def copy_sharing_frozen(model: Any, others: Iterable[Any]) -> Any:
    """A copy of a model that shares with it every parameter of the others that does not learn."""
    shared = {id(p): p for other in others for p in other.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared)


def train_adapters(model: Any) -> Any:
    """Let the adapters and the head of a loaded or copied model learn, and nothing else; returns the model."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or ".modules_to_save." in name)
    return model


def trunk_hash(model: Any) -> str:
    """`weights_hash` of the parameters of a model's trunk."""
    return weights_hash(dict(trunk_of(model).named_parameters()))


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, formats and bytes of weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scalar_model_over(policy: Any) -> Any:
    """A scalar model whose trunk has the policy's very parameters, and a head of its own, untrained."""
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    with torch.device("meta"):  # its trunk is not wanted
        make = ScalarGPT if isinstance(policy, GPT) else new_scalar_model
        scalar = make(config)
    trunk = copy.deepcopy(trunk_of(policy), {id(p): p for p in policy.parameters()})
    setattr(scalar, scalar.base_model_prefix, trunk)
    scalar.score = nn.Linear(
        scalar.score.in_features, 1, bias=False, dtype=policy.dtype, device=policy.device
    )
    nn.init.normal_(scalar.score.weight, std=(scalar.score.in_features + 1) ** -0.5)
    return scalar.eval()


def save_adapters(model: Any, trunk: str, offset: float, folder: Path) -> None:
    """Keep a reward model's adapters and head under folder/adapter, with the hash of the trunk beneath them.

    offset: what the merged checkpoint adds to every score.
    """
    model.peft_config["default"].base_model_name_or_path = None
    model.save_pretrained(folder / FOLDER, save_embedding_layers=False)
    (folder / FOLDER / "README.md").unlink(missing_ok=True)
    (folder / FOLDER / "trunk.json").write_text(json.dumps({"sha256": trunk, "reward_offset": offset}) + "\n")


def reward_model_over(folder: str | Path, policy: Any) -> Any | None:
    """The reward model of a checkpoint over the policy's own weights; None where it was made over another trunk."""
    from peft import PeftModel

    note = Path(folder) / FOLDER / "trunk.json"
    if not note.is_file():
        return None
    made = json.loads(note.read_text())
    if made["sha256"] != trunk_hash(policy):
        return None
    scalar = scalar_model_over(policy)
    scalar.config.reward_offset = made["reward_offset"]
    return PeftModel.from_pretrained(scalar, str(note.parent)).eval()
