"""`rlhf push`: a checkpoint to the hub in one commit, by huggingface_hub."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlhf.data.hub import offline
from rlhf.errors import InputError, first_line
from rlhf.model_card import NOT_PUBLISHED, model_card
from rlhf.store import Entry, Store

# What loaders look for: left from an earlier push it would be read instead of, or beside, what is there now.
READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken")
UNREACHABLE = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "ReadTimeout",
    "ReadError",
    "RemoteProtocolError",
)


def push(store: Store, reference: str, repository: str, private: bool, say: Callable[[str], None]) -> str:
    """Upload an entry's files to OWNER/NAME, made if it is not there; returns the commit's address.

    Files of an earlier push that the entry has not are deleted in the same commit, whatever else is there stays. Raises
    InputError for what the hub refuses, without a token or network, and for a public repository where a private one is asked for.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    entry = store.resolve(reference)
    if problems := store.verify(reference):
        raise InputError(f"{entry.ref} is not pushed: {problems[0]}")
    if offline():
        raise InputError(f"{repository}: HF_HUB_OFFLINE forbids the network; unset it to push")
    files = _files(entry)
    size = sum(content.stat().st_size for _, content in files if isinstance(content, Path))
    api = HfApi()
    try:
        there = _there(api, repository)
        if private and there is not None and not there.private:
            raise InputError(
                f"{repository}: it is there and public, and --private makes new ones only; make it private on its page, or name "
                "another"
            )
        stale = _stale(there, {name for name, _ in files})
        operations: list[Any] = [
            *(CommitOperationAdd(name, content) for name, content in files),
            *(CommitOperationDelete(name) for name in stale),
        ]
        where = api.create_repo(repository, private=private, exist_ok=True)
        say(f"push: {len(files)} files of {entry.ref}, {size / 1e6:.0f} MB, to {where.repo_id}")
        if stale:
            say(f"push: of what was there before go {', '.join(stale)}")
        done = api.create_commit(where.repo_id, operations, commit_message=f"{entry.ref}, {entry.hash[:12]}")
    except InputError:
        raise
    except (
        Exception
    ) as problem:  # the hub's, and those of the package below, which is another one in another version
        raise InputError(f"{repository}: {_said(problem)}") from None
    return str(done.commit_url)


def _there(api: Any, repository: str) -> Any:
    """What the hub says of the repository; None where there is none yet."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _stale(there: Any, new: Iterable[str]) -> list[str]:
    """The repository's files that a loader could read and the entry has not."""
    siblings = (there.siblings or ()) if there is not None else ()
    return sorted({each.rfilename for each in siblings if each.rfilename.endswith(READ)} - set(new))


def _said(problem: Exception) -> str:
    """Why it failed, and what to do."""
    if type(problem).__name__ in UNREACHABLE:
        return f"the hub cannot be reached ({first_line(problem)}); push again with a network"
    return f"the hub refused: {first_line(problem)}; hf auth login gives a token"


def _files(entry: Entry) -> list[tuple[str, Any]]:
    """Name and path of each file to upload; the card's text for an entry of before cards."""
    found: list[tuple[str, Any]] = [
        (name, entry.path / name)
        for name in entry.manifest["files"]
        if name.split("/")[0] not in NOT_PUBLISHED
    ]
    if "README.md" not in entry.manifest["files"]:
        found.append(("README.md", model_card(entry.manifest).encode()))
    return found
