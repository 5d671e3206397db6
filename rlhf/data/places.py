"""Where data come from: files, folders of shards, globs, folders saved by datasets, the hub, and lists of these."""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.data.files import KINDS, kind_of
from rlhf.errors import InputError, first_line
from rlhf.hub_names import SCHEME, hub_name

HUB_NAME = re.compile(
    r"(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<inside>[^:@]+))?(?::(?P<split>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
WEIGHT = re.compile(r"(?P<place>.+)=(?P<weight>\d+(?:\.\d+)?)")
SPLITS = ("train", "test", "validation", "valid", "dev", "eval")
DEFAULT_SPLIT = "train"
NOT_HERE = "no such file; name a file, a folder or a data set on the hub (owner/name)"


@dataclass(frozen=True)
class Place:
    """Files of one source, or a table of `datasets`; weight: how often its rows are taken (0.5: a random half).

    revisions: the commit's sha of each data set on the hub. shown: the name by which errors call the source.
    """

    shown: str
    files: tuple[Path, ...] = ()
    table: Any = None
    weight: float = 1.0
    revisions: dict[str, str] = field(default_factory=dict)


def places(source: str | Path) -> list[Place]:
    """The places that a source names: one, or several between commas, each with `=WEIGHT` where it has one.

    Raises InputError for one that is not there.
    """
    text = f"{source}"
    if Path(text).exists() or "," not in text:
        names = [text]
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    found = [_weighted(name) for name in names]
    if not found:
        raise InputError(f"{text!r}: names no data")
    return found


def _weighted(name: str) -> Place:
    weighted = None if Path(name).exists() else WEIGHT.fullmatch(name)
    if weighted is None:
        return _place(name, 1.0)
    if float(weighted["weight"]) == 0:
        raise InputError(f"{name}: the weight 0 takes nothing; leave the source out")
    return _place(weighted["place"], float(weighted["weight"]))


def _place(name: str, weight: float) -> Place:
    path = Path(name).expanduser()
    split = None
    if not path.exists() and not name.startswith(SCHEME):
        front, colon, back = name.rpartition(":")
        if colon and Path(front).expanduser().is_dir():
            path, split = Path(front).expanduser(), back
    if path.is_dir():
        return _folder(name, path, split, weight)
    if path.exists():
        return Place(name, (path,), weight=weight)
    if any(sign in name for sign in "*?["):
        files = sorted(Path(one) for one in glob.glob(name, recursive=True))
        return Place(name, tuple(_readable(files, name)), weight=weight)
    return _hub(name, weight)


def _readable(files: list[Path], name: str) -> list[Path]:
    found = [one for one in files if one.is_file() and kind_of(one)]
    if not found:
        raise InputError(f"{name}: no file that can be read; use {' '.join(KINDS)}")
    return found


def _folder(name: str, path: Path, split: str | None, weight: float) -> Place:
    """A folder saved by datasets, or one of shards: those of the split, where their names tell splits apart."""
    if (path / "dataset_dict.json").exists():
        import json

        there = json.loads((path / "dataset_dict.json").read_text())["splits"]
        path, split = path / _chosen(name, there, split), None
    if (path / "state.json").exists():
        return Place(name, table=_saved(name, path), weight=weight)
    files = [
        one
        for one in sorted(path.rglob("*"))
        if not any(part.startswith(".") for part in one.relative_to(path).parts)
    ]
    found = _readable(files, name)
    by_split: dict[str, list[Path]] = {}
    for one in found:
        by_split.setdefault(_split_in(one.relative_to(path)), []).append(one)
    if split is None and set(by_split) <= {""}:
        return Place(name, tuple(found), weight=weight)
    return Place(name, tuple(by_split[_chosen(name, [one for one in by_split if one], split)]), weight=weight)


def _split_in(path: Path) -> str:
    words = re.split(r"[^a-z]+", f"{path}".lower())
    return next((split for split in SPLITS if split in words), "")


def _chosen(name: str, there: list[str], split: str | None) -> str:
    """The split asked for, else the only one, else train."""
    wanted = split or (there[0] if len(there) == 1 else DEFAULT_SPLIT)
    if wanted not in there:
        raise InputError(
            f"{name}: it has no split {wanted}; name one of {', '.join(there) or 'none'}: {name.split(':')[0]}:SPLIT"
        )
    return wanted


def _saved(name: str, path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(f"{path}")
    except Exception as problem:
        raise InputError(f"{name}: cannot be read ({first_line(problem)})") from None


def _hub(name: str, weight: float) -> Place:
    found = HUB_NAME.fullmatch(hub_name(name, NOT_HERE, most_slashes=2))
    if found is None:
        raise InputError(f"{name}: {NOT_HERE}")
    from rlhf.data.hub import fetched

    repository, inside, split, revision = found["name"], found["inside"], found["split"], found["revision"]
    files, sha = fetched(name, repository, inside, split, revision)
    return Place(name, tuple(files), weight=weight, revisions={repository: sha})


def table_rows(place: Place) -> Iterator[tuple[str, Any]]:
    """(place, row) of a table of datasets, without the guesses of its features."""
    number = 0
    for batch in place.table.with_format("arrow").iter(batch_size=256):
        for row in batch.to_pylist():
            number += 1
            yield f"{place.shown}:{number}", row
