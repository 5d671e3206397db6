"""LoRA adapters (Hu et al. 2022): what a stage trains instead of all weights, and several models over one base.

A model with adapters is saved merged, as a plain checkpoint. A reward model also keeps its adapter and head beside it,
with the hash of the trunk they belong to, so that PPO can put them over a policy's own weights: policy, reference,
reward and value model then hold one base.
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import InputError, first_line
from rlhf.models.checkpoints import (
    check_offset,
    fold_bias,
    forget_quantisation,
    load_policy,
    new_scalar_model,
)
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.sources import file_of, find_source, reading
from rlhf.models.trunk import trunk_of

WAY_OUT = "train all of it (lora_rank = 0), or its last_blocks"
FOLDER, NOTE = "adapter", "trunk.json"  # in a checkpoint's folder, and in that
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


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
    """The model, of which from now on only new adapters (and the head) learn. Raises InputError as `adapted`."""
    return adapted(model, lora(rank, head))


def adapted(model: Any, peft_config: Any) -> Any:
    """The model with the adapters of peft's configuration, of which from now on only they learn.

    Raises InputError for a family that peft puts none on, and where two of them would be over one weight (Zamba's blocks
    share theirs): merged into it, both would be in both places.
    """
    from peft import get_peft_model

    family = model.config.model_type
    try:
        found = get_peft_model(model, peft_config)
    except ValueError as problem:
        reason = first_line(problem).partition(". ")[0]  # without advice for another who calls
        raise InputError(f"{family}: peft puts no such adapters on it ({reason}); {WAY_OUT}") from None
    weights: dict[int, str] = {}
    for name, layer in found.named_modules():
        if (weight := getattr(getattr(layer, "base_layer", None), "weight", None)) is None:
            continue
        if (other := weights.setdefault(id(weight), name)) != name:
            raise InputError(
                f"{family}: {other} and {name} are one weight, which can hold no two adapters; {WAY_OUT}"
            )
    return found


def is_adapted(model: Any) -> bool:
    return hasattr(model, "merge_and_unload")


def save_plain(model: Any, folder: Path, untied: bool = False) -> None:
    """The model as a plain checkpoint, adapters merged into a copy of its weights.

    untied: a head that is the embedding is written as weights of its own.
    """
    if is_adapted(model):
        passing = (each for module in model.modules() for each in vars(module).values())
        # RecurrentGemma's layers keep the states of the last pass, which may belong to a gradient.
        kept = {id(each): each.detach() for each in passing if isinstance(each, Tensor)}
        model = copy.deepcopy(model, kept).merge_and_unload()
    forget_quantisation(model)
    if not (untied and model.config.tie_word_embeddings):
        model.save_pretrained(folder)
        return
    own = copy.copy(model)  # with settings of its own, and the same weights
    own.config = copy.deepcopy(model.config)
    own.config.tie_word_embeddings, own._keys_to_ignore_on_save = False, None
    state, embedding = model.state_dict(), model.get_input_embeddings().weight
    for name, weight in model.get_output_embeddings().named_parameters(prefix=head_name(model)):
        if weight is embedding:
            state[name] = weight.detach().clone()
    own.save_pretrained(folder, state_dict=state)


def head_name(model: Any) -> str:
    """The name of the module that makes logits."""
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def untie(folder: Path) -> None:
    """Give a policy's head weights of its own where it is the embedding; what it computes stays.

    vLLM on CPUs packs a tied head once and keeps it when weights are read anew.
    """
    model = load_policy(folder)
    if not model.config.tie_word_embeddings:
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        save_plain(model, Path(made), untied=True)
        new = [file.replace(folder / file.name) for file in Path(made).glob("*.safetensors*")]
    for file in set(folder.glob("*.safetensors*")) - set(new):
        file.unlink()
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


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
    (folder / FOLDER / NOTE).write_text(json.dumps({"sha256": trunk, "reward_offset": offset}) + "\n")


def reward_model_over(folder: str | Path, policy: Any) -> Any | None:
    """The reward model of a checkpoint over the policy's own weights; None where it was made over another trunk."""
    from peft import PeftModel

    source = find_source(folder)
    note = None if source.gguf else file_of(source, f"{FOLDER}/{NOTE}")
    if note is None:
        return None
    with reading(note, "this is no note on a reward model's adapters"):
        made = json.loads(note.read_text())
        trunk, offset = made["sha256"], made["reward_offset"]
    check_offset(offset, note)
    if trunk != trunk_hash(policy):
        return None
    scalar = scalar_model_over(policy)
    for name in ADAPTER_FILES:  # of a hub's model, into the same folder
        file_of(source, f"{FOLDER}/{name}")
    with reading(note.parent, "these adapters are damaged"):
        over = PeftModel.from_pretrained(scalar, str(note.parent)).eval()
    # As in the merged checkpoint: heads were fitted to its states.
    fold_bias(scalar, offset)
    return over
