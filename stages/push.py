"""`rlhf push`: a checkpoint to the hub in one commit, by huggingface_hub."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from rlhf.errors import InputError, first_line
from rlhf.model_card import model_card
from rlhf.store import Entry, Store

# A manifest names folders of this machine; what it says of the model's making is in the card.
LEFT_OUT = ("manifest.json", "checkpoints/*", "state/*")


def push(store: Store, reference: str, repository: str, private: bool, say: Callable[[str], None]) -> str:
    """Upload an entry's files to OWNER/NAME, made if it is not there; returns the commit's address.

    Raises InputError for what the hub refuses, and without a token.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    entry = store.resolve(reference)
    if problems := store.verify(reference):
        raise InputError(f"{entry.ref} is not pushed: {problems[0]}")
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in _files(entry)]
    size = sum(
        (entry.path / name).stat().st_size for name, _ in _files(entry) if (entry.path / name).exists()
    )
    api = HfApi()
    try:
        where = api.create_repo(repository, private=private, exist_ok=True)
        say(f"push: {len(operations)} files of {entry.ref}, {size / 1e6:.0f} MB, to {where.repo_id}")
        done = api.create_commit(where.repo_id, operations, commit_message=f"{entry.ref}, {entry.hash[:12]}")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as problem:
        raise InputError(
            f"{repository}: the hub refused: {first_line(problem)}; hf auth login gives a token"
        ) from None
    return str(done.commit_url)


def _files(entry: Entry) -> list[tuple[str, Any]]:
    """Name and path of each file to upload; the card's text for an entry of before cards."""
    found: list[tuple[str, Any]] = [
        (name, entry.path / name)
        for name in entry.manifest["files"]
        if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)
    ]
    if "README.md" not in entry.manifest["files"]:
        found.append(("README.md", model_card(entry.manifest).encode()))
    return found
