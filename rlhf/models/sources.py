"""Where a model comes from: a folder, a GGUF file or a hub id, and how transformers is asked for it."""

import hashlib
import importlib.util
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import InputError, first_line
from rlhf.hub_names import hub_name
from rlhf.packages import how_to_install

# What transformers and gguf raise for files that are cut off or damaged, and for want of a package that a family needs.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, ImportError, struct.error,
)  # fmt: skip

NOT_HERE = "no such folder or file; give a model's folder, a GGUF file or a hub id"


@dataclass(frozen=True)
class Source:
    """A model's place: the folder or hub id, and the GGUF file in that folder if it is one."""

    place: str
    gguf: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Keyword arguments of every `from_pretrained`."""
        named = {"gguf_file": self.gguf} if self.gguf else {}
        return {"pretrained_model_name_or_path": self.place, **named}

    @property
    def path(self) -> Path:
        """The GGUF file, else the folder."""
        return Path(self.place) / (self.gguf or "")


def find_source(name: str | Path) -> Source:
    """The source that `name` means; what is no path on this machine and looks like none is a hub id.

    Raises InputError for a path that is not there, a file that is no GGUF file, and GGUF without its package.
    """
    path = Path(name)
    if os.path.isdir(path):
        return Source(str(name))
    if os.path.isfile(path):
        _check_gguf(path)
        return Source(str(path.parent), path.name)
    return Source(hub_name(str(name), NOT_HERE))


def reason_of(problem: Exception) -> str:
    """A library's first line; of a package that is missing all of what it says, since its name comes later."""
    if isinstance(problem, ImportError):
        return " ".join(f"{problem}".split()).partition(" Please note")[0][:300]
    return first_line(problem)


def content_hash(name: str | Path) -> str:
    """What a model is, wherever it lies: sha256 of a file or of a folder's files, the commit of a hub's model.

    Raises InputError for a name that means nothing, or that the hub does not give.
    """
    source = find_source(name)
    if os.path.exists(source.path):
        return sha256_of(source.path)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source.place, "config.json")).parent.name
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as problem:
        raise InputError(f"{name}: the hub gave no such model: {first_line(problem)}") from None


def sha256_of(path: Path) -> str:
    """Of a file; of a folder the hash over its files' names and hashes."""
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file())
        listing = "".join(f"{sha256_of(found)}  {found.relative_to(path).as_posix()}\n" for found in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"GGUF":
        raise InputError(
            f"{path}: this is no GGUF file (it does not begin with GGUF); give a folder or a GGUF file"
        )
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{path}: reading GGUF files needs the package gguf: {how_to_install('gguf')}")
