"""Where a model comes from: a folder, a GGUF file or a hub id, and how transformers is asked for it."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import Version

from rlhf.data.hub import download
from rlhf.errors import InputError, RLHFError, first_line
from rlhf.hub_names import hub_name
from rlhf.packages import how_to_install, version_of

# As transformers looks for them, one after another.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
GGUF_FROM = "5.23"  # of transformers
NOT_HERE = "no such folder or file; give a model's folder, a GGUF file or a hub id"
NOT_GIVEN = "the hub gave no such model"


@dataclass(frozen=True)
class Source:
    """A model's place: the folder or hub id, and the GGUF file in that folder if it is one."""

    place: str
    gguf: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained`, of which none may run code that a checkpoint brings."""
        named = {"gguf_file": self.gguf} if self.gguf else {}
        return {"pretrained_model_name_or_path": self.place, "trust_remote_code": False, **named}

    @property
    def path(self) -> Path:
        """The GGUF file, else the folder."""
        return Path(self.place) / (self.gguf or "")


def find_source(name: str | Path) -> Source:
    """The source that `name` means; what is no path on this machine and looks like none is a hub id.

    Raises InputError for a path that is not there, a file that is no GGUF file, GGUF without its package, and a hub id that is
    a folder here, too, which transformers would take instead.
    """
    path = Path(name)
    if os.path.isdir(path):
        return Source(str(name))
    if os.path.isfile(path):
        _check_gguf(path)
        return Source(str(path.parent), path.name)
    hub_id = hub_name(str(name), NOT_HERE)
    if os.path.exists(hub_id):
        raise InputError(
            f"{name}: there is a folder {hub_id} here, too; start in another folder to have the hub's"
        )
    return Source(hub_id)


def file_of(source: Source, name: str) -> Path | None:
    """A file of a model's folder or, fetched, of a hub's model; None where it has none of that name."""
    if not os.path.isdir(source.place):
        return _file_of_hub(source.place, name)
    file = Path(source.place) / name
    return file if file.is_file() else None


@cache  # as with weights
def _file_of_hub(hub_id: str, name: str) -> Path | None:
    with reading(hub_id, NOT_GIVEN):
        try:
            return download(hub_id, name)
        except (OSError, ValueError):  # the hub's own errors are of these
            return None


@contextmanager
def reading(name: str | Path, what: str) -> Iterator[None]:
    """Raises InputError, with `what` is wrong, for whatever a library raises over files that are damaged or no such files.

    No list of types is whole: safetensors, pickle and strict data classes have their own, tokenizers raises Exception.
    """
    try:
        yield
    except RLHFError:
        raise
    except Exception as problem:
        raise InputError(f"{name}: {what}: {_reason_of(problem)}") from problem


def _reason_of(problem: Exception) -> str:
    """A library's first line; all of what it says where that line only announces it, or names no missing package yet."""
    line = first_line(problem)
    if "trust_remote_code" in f"{problem}":
        return "it is a model with code of its own, which is not run here; give one of a kind that transformers itself has"
    if "weights_only" in line:  # and says how to run what may stand in it
        return "its weights are pickled with more than tensors in them, which may run code and is not read; give safetensors"
    if "instantiate the backend tokenizer" in line:  # and asks for packages that would not help
        return "there is no tokenizer.json, nor another file of one; copy them from the model that this one was made from"
    if isinstance(problem, ImportError) or line.endswith(":"):
        return " ".join(f"{problem}".split()).partition(" Please note")[0][:300]
    return line


def declared_stops(source: Source) -> tuple[int, ...]:
    """The end tokens in a checkpoint's generation settings, which may be more than the tokenizer's one.

    Without such a file those of the model's own settings, as transformers takes them for a model in memory. Raises
    InputError for a file that is damaged: an answer would not end where it should.
    """
    from transformers import AutoConfig, GenerationConfig

    if source.gguf:
        return ()
    with reading(source.place, "its generation_config.json cannot be read"):
        try:
            return stops_in(GenerationConfig.from_pretrained(source.place), source.place)
        except OSError as problem:
            if isinstance(problem.__context__, ValueError):  # a file is there, and it is no JSON
                raise
    try:
        config = AutoConfig.from_pretrained(**source.arguments).get_text_config(decoder=True)
    except Exception:  # a tokenizer alone; whoever loads a model here says what is wrong with it
        return ()
    return stops_in(config, source.place)


def stops_in(settings: Any, name: str) -> tuple[int, ...]:
    """The end tokens of a model's or its generation's settings, one or a list. Raises InputError for other values."""
    ends = getattr(settings, "eos_token_id", None)
    ends = () if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (ends,)
    if wrong := [end for end in ends if not isinstance(end, int) or isinstance(end, bool)]:
        raise InputError(
            f"{name}: eos_token_id is {wrong[0]!r}; an end token is given by its number, several as a list"
        )
    return ends


def content_hash(name: str | Path) -> str:
    """What a model is, wherever it lies: sha256 of a file or of a folder's files, the commit of a hub's model.

    Raises InputError for a name that means nothing, or that the hub does not give.
    """
    source = find_source(name)
    if os.path.exists(source.path):
        return sha256_of(source.path)
    with reading(name, NOT_GIVEN):
        return download(source.place, "config.json").parent.name


def check_index(folder: Path) -> None:
    """Raises InputError where a folder's weights are in several files and its index of them is none."""
    there = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if there and there.suffix == ".json":
        parts_of(there)


def parts_of(index: Path) -> list[str]:
    """The files that an index of weights names. Raises InputError for one that is damaged, or names a file elsewhere.

    What lies outside of the folder is not in the model's hash.
    """
    with reading(index, "this is no index of weights"):
        content = json.loads(index.read_text())
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not named or not isinstance(named, dict) or not all(isinstance(part, str) for part in named.values()):
        raise InputError(
            f"{index}: this is no index of weights: its weight_map does not give the file of each; fetch it again"
        )
    parts = sorted(set(named.values()))
    if outside := [part for part in parts if os.path.isabs(part) or ".." in Path(part).parts]:
        raise InputError(
            f"{index}: it names {outside[0]}, which is not in this folder; put that file beside the index, and name it so there"
        )
    return parts


@cache  # a model is loaded more than once; the hub is asked once
def fetch_weights(hub_id: str) -> None:
    """Bring the weights that `from_pretrained` reads of a hub's model into the hub's cache, with a bar.

    Where the hub does not give them nothing is said: whoever loads the model says why. Raises InputError where the connection
    is lost.
    """
    for name in WEIGHTS:
        try:
            index = download(hub_id, name)
            if name.endswith(".json"):
                for part in parts_of(index):
                    download(hub_id, part)
            return
        except RLHFError:
            raise
        except (OSError, ValueError, LookupError):  # the hub's own errors are of these
            continue
        except (
            Exception
        ) as problem:  # of the package below the hub's, which is another one in another version
            raise InputError(
                f"{hub_id}: the connection to the hub was lost ({first_line(problem)}); the same command goes on where it stopped"
            ) from None


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
    version = version_of("transformers")
    if version and not reads_gguf(version):
        raise InputError(
            f"{path}: transformers {version} reads other tokens out of GGUF files than their models were trained on; "
            f"pip install 'transformers>={GGUF_FROM}'"
        )


def reads_gguf(transformers: str) -> bool:
    """Whether this version gives a GGUF file's own tokens: 5.17 left out its merges, 5.18 to 5.22 its first token."""
    return Version(transformers) >= Version(GGUF_FROM)
