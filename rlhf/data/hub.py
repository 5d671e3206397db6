"""Data sets of the hub, as files: which belong to a configuration and split, brought into the hub's own cache.

The files are read by our readers and not by `datasets`, which turns what looks like a date into one.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhf.data.files import kind_of
from rlhf.data.splits import chosen_split
from rlhf.durable import write_text
from rlhf.errors import InputError, first_line

SHOWN_AFTER_S = 1.0


def fetched(
    name: str, repository: str, inside: str | None, split: str | None, revision: str | None
) -> tuple[list[Path], str]:
    """The files of `repository` that `inside` (a configuration, or a file or folder of it) and `split` name, and the sha.

    Raises InputError for what is not there, or private, or out of reach.
    """
    from huggingface_hub import HfApi

    asked = json.dumps([inside, split, revision])
    try:
        if offline():
            sha, paths = _remembered(name, repository, asked)
        else:
            sha = f"{HfApi().dataset_info(repository, revision=revision).sha}"
            paths = _paths(name, repository, inside, split, sha)
        files = [download(repository, path, "dataset", sha) for path in paths]
        if not offline():
            _remember(repository, asked, sha, paths)
        return files, sha
    except InputError:
        raise
    except Exception as problem:
        raise InputError(f"{name}: {_said(problem, revision)}") from None


def offline() -> bool:
    """Whether the user asked for no network at all."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


class DownloadBar(tqdm):  # type: ignore[type-arg]
    """Shows what takes more than a second to fetch; the hub's own bars are off, with all others of libraries."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **{**given, "delay": SHOWN_AFTER_S, "mininterval": 1, "leave": False})


def download(repository: str, path: str, repo_type: str | None = None, revision: str | None = None) -> Path:
    """A repository's file in the hub's cache; fetched, with a bar, where it is not there."""
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(repository, path, repo_type=repo_type, revision=revision, tqdm_class=DownloadBar)
    )


def _memory(repository: str) -> Path:
    """Where it stands which files a name meant, beside the files in the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}" / "rlhf.json"


def _remember(repository: str, asked: str, sha: str, paths: list[str]) -> None:
    file = _memory(repository)
    known = json.loads(file.read_text()) if file.exists() else {}
    write_text(file, json.dumps(known | {asked: [sha, paths]}))


def _remembered(name: str, repository: str, asked: str) -> tuple[str, list[str]]:
    file = _memory(repository)
    known = json.loads(file.read_text()) if file.exists() else {}
    if asked not in known:
        raise InputError(
            f"{name}: was not fetched, and HF_HUB_OFFLINE forbids to; with a network: rlhf data fetch {name}"
        )
    sha, paths = known[asked]
    return sha, paths


def _paths(name: str, repository: str, inside: str | None, split: str | None, sha: str) -> list[str]:
    """Paths in the repository: of a file that `inside` names, else of a configuration's split."""
    from huggingface_hub import HfApi

    there = HfApi().list_repo_files(repository, repo_type="dataset", revision=sha)
    if inside and inside in there:
        return [inside]
    is_folder = inside is not None and any(path.startswith(f"{inside}/") for path in there)
    files = _data_files(name, repository, inside, sha, is_folder)
    wanted = chosen_split(name, repository, [*files], split)
    known = [path for path in files[wanted] if kind_of(Path(path))]
    if not known:
        raise InputError(
            f"{name}: no file of its split {wanted} can be read ({', '.join(files[wanted][:3]) or 'none there'})"
        )
    return known


def _data_files(
    name: str, repository: str, inside: str | None, sha: str, is_folder: bool
) -> dict[str, list[str]]:
    """Paths by split, as the data set's card or the names of its files say; of a configuration, else of a folder."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(repository, inside, revision=sha)
    except ValueError as problem:
        message = f"{problem}"
        if "onfig" in message and is_folder:
            builder = datasets.load_dataset_builder(repository, data_dir=inside, revision=sha)
        elif "onfig" in message:
            raise InputError(
                f"{name}: {' '.join(message.split())[:300]}; write {repository}/CONFIGURATION"
            ) from None
        else:
            raise
    files: Any = builder.config.data_files or {}
    return {f"{split}": [_inside(f"{url}", sha) for url in urls] for split, urls in files.items()}


def _inside(url: str, sha: str) -> str:
    """The path in the repository of one of datasets' addresses, `hf://datasets/owner/name@sha/path` or `…/resolve/sha/path`."""
    return re.sub(rf"^.*?(?:@|/resolve/){re.escape(sha)}/", "", url)


def _said(problem: Exception, revision: str | None) -> str:
    """The hub's answer in words that say what to do."""
    kind = type(problem).__name__
    if kind == "GatedRepoError":
        return "its owner must let you in: ask on its page on the hub, then log in with `hf auth login` or set HF_TOKEN"
    if kind in ("RepositoryNotFoundError", "DatasetNotFoundError"):
        return "no such data set on the hub, or a private one; if it is yours, log in with `hf auth login` or set HF_TOKEN"
    if kind == "RevisionNotFoundError":
        return f"it has no revision {revision}"
    if kind in (
        "ConnectError",
        "ConnectTimeout",
        "ConnectionError",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
        "ReadTimeout",
    ):
        return "the hub cannot be reached; with a network, `rlhf data fetch` brings it, and HF_HUB_OFFLINE=1 uses what is there"
    return f"cannot be loaded ({first_line(problem)})"
