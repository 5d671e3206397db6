"""Where a model comes from: a folder, a GGUF file or a hub id, and how transformers is asked for it."""

import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import InputError

# What transformers and gguf raise for files that are cut off or damaged.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, NotImplementedError, struct.error)


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
    if path.is_dir():
        return Source(str(name))
    if path.is_file():
        _check_gguf(path)
        return Source(str(path.parent), path.name)
    if (
        path.suffix == ".gguf"
        or path.is_absolute()
        or str(name).startswith((".", "~"))
        or len(path.parts) > 2
    ):
        raise InputError(f"{name}: no such folder or file; give a model's folder, a GGUF file or a hub id")
    return Source(str(name))


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"GGUF":
        raise InputError(
            f"{path}: this is no GGUF file (it does not begin with GGUF); give a folder or a GGUF file"
        )
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{path}: reading GGUF files needs the package gguf; pip install gguf")
