"""A model from a folder, a GGUF file or a hub, as an entry of the store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.data.hub import DownloadBar
from rlhf.errors import InputError
from rlhf.models.sources import NOT_GIVEN, fetch_weights, find_source, reading, sha256_of
from rlhf.store import Entry, Store, check_name

BESIDE_WEIGHTS = ["*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "README.md", "LICENSE*"]


def import_model(
    store: Store,
    name_of_source: str,
    name: str,
    licence: str | None = None,
    say: Callable[[str], None] = print,
) -> Entry:
    """Put a model with its tokenizer into the store as a base; returns the entry already there for the same source.

    The manifest's settings name source, revision (of a hub's model) and licence, its data the source's sha256. Weights
    keep the source's dtype; those of a GGUF file are dequantised to float32. Raises InputError for unusable sources.
    """
    check_name("base", name)
    source = find_source(name_of_source)
    path = source.path if source.path.exists() else _download(source.place)
    settings: dict[str, Any] = {
        "name": name,
        "source": name_of_source,
        "revision": None if source.path.exists() else path.name,
        "licence": licence or licence_of(path),
    }
    inputs: dict[str, Any] = {
        "parents": {}, "settings": settings, "data": {name_of_source: sha256_of(path)}, "seed": 0,
    }  # fmt: skip
    if found := store.find("base", **inputs):
        say(f"import: {found.ref} is there already")
        return found
    from rlhf.models.checkpoints import check_fits, load_policy
    from rlhf.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    model = load_policy(path, dtype=None if source.gguf else "auto")
    check_fits(tokenizer, model, name_of_source)
    check_finite(model, name_of_source)
    if settings["licence"] is None:
        say(f"import: {name_of_source} states no licence; name it with --licence")
    with store.new("base", name, **inputs) as writer:
        model.save_pretrained(writer.path)
        tokenizer.save(writer.path)
        writer.metrics = {"parameters": model.num_parameters(), "licence": settings["licence"]}
    return writer.entry


def check_finite(model: Any, name: str) -> None:
    """Raise InputError for weights that are infinite or no number at all: such a model answers with nothing but errors."""
    broken = [key for key, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise InputError(
            f"{name}: {len(broken)} of its tensors hold values that are not finite, the first of them {broken[0]}; "
            "take a checkpoint from before its training went wrong"
        )


def _download(hub_id: str) -> Path:
    """The folder of a hub's model in the local cache; fetched where it is not there or not the newest."""
    from huggingface_hub import snapshot_download

    fetch_weights(hub_id)
    with reading(hub_id, f"no such folder or file, and {NOT_GIVEN}"):
        return Path(snapshot_download(hub_id, allow_patterns=BESIDE_WEIGHTS, tqdm_class=DownloadBar))


def licence_of(path: Path) -> str | None:
    """The licence that a GGUF file's metadata or a folder's model card states."""
    if path.is_file():
        from transformers.integrations.gguf.reader import read_gguf_metadata

        with reading(path, "this GGUF file is damaged"):
            return read_gguf_metadata(str(path))[0].get("general.license")
    card = path / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except Exception:  # a card that is none: of the model it says nothing
        return None
    return ", ".join(map(str, found)) if isinstance(found, list) else None if found is None else f"{found}"
