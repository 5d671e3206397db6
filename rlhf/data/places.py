"""Where data come from: files, folders of shards, globs, folders saved by datasets, the hub, and lists of these."""

import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.data.files import KINDS, batch_rows, kind_of
from rlhf.data.splits import DEFAULT_SPLIT, SPLITS, chosen_split, split_called
from rlhf.errors import InputError, first_line
from rlhf.hub_names import SCHEME, hub_name, shown

HUB_NAME = re.compile(
    r"(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<inside>[^:@]+))?(?::(?P<split>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
WEIGHT = re.compile(r"(?P<place>.+)=(?P<weight>\d+(?:\.\d*)?|\.\d+)")
# Files that lie beside data and say something about them.
ABOUT = re.compile(
    r"(?i:(readme|licen[cs]e|notice|copying|changelog|citation|contributing)\b.*\.txt|dataset_infos?\.json)"
)
# What a data set's card says before its text, and whether that lists files.
CARD = re.compile(r"---\s*\n.*?\n---", re.DOTALL)
LISTS_FILES = re.compile(r"^configs:.*^\s*(?:- )?data_files:", re.DOTALL | re.MULTILINE)
NOT_HERE = "no such file; name a file, a folder or a data set on the hub (owner/name)"


@dataclass(frozen=True)
class Place:
    """Files of one source, or a table of `datasets`; weight: how often its rows are taken (0.5: a random half).

    revisions: the commit's sha of each data set on the hub. shown: the name by which errors call the source.
    not_read: names of the folder's files that are of other splits or hold no data. split: the one asked for of a file.
    """

    shown: str
    files: tuple[Path, ...] = ()
    table: Any = None
    weight: float = 1.0
    revisions: dict[str, str] = field(default_factory=dict)
    not_read: tuple[str, ...] = ()
    split: str | None = None


def places(source: str | Path) -> list[Place]:
    """The places that a source names: one, or several between commas, each with `=WEIGHT` where it has one.

    Raises InputError for one that is not there.
    """
    text = f"{source}"
    parts = [text] if os.path.exists(text) else text.split(",")
    names = [name.strip() for name in parts if name.strip()]
    if not names:
        raise InputError(
            f"{text!r} names no data; name a file, a folder or a data set on the hub (owner/name)"
        )
    return [_weighted(name) for name in names]


def _weighted(name: str) -> Place:
    weighted = None if os.path.exists(name) else WEIGHT.fullmatch(name)
    if weighted is None:
        return _place(name, 1.0)
    if float(weighted["weight"]) == 0:
        raise InputError(f"{name}: the weight 0 takes nothing; leave the source out")
    return _place(weighted["place"], float(weighted["weight"]))


def _place(name: str, weight: float) -> Place:
    path = os.path.expanduser(name)
    split = None
    if not os.path.exists(path) and not name.startswith(SCHEME):
        front, colon, back = path.rpartition(":")
        if colon and os.path.exists(front):
            path, split = front, back
    if os.path.isdir(path):
        return _folder(name, Path(path), split, weight)
    if os.path.exists(path):
        return Place(name, (Path(path),), weight=weight, split=split)
    if any(sign in name for sign in "*?["):
        files = sorted(Path(one) for one in glob.glob(path, recursive=True))
        return Place(name, tuple(_readable(files, name)), weight=weight)
    return _hub(name, weight)


def _readable(files: list[Path], name: str) -> list[Path]:
    lost = next((one for one in files if kind_of(one) and not os.path.exists(one)), None)
    if lost is not None:  # its rows would be missing without a word
        raise InputError(f"{lost}: is a link that leads to no file; mend it or take it away")
    found = [one for one in files if one.is_file() and kind_of(one)]
    if not found:
        raise InputError(f"{name}: no file that can be read; use {' '.join(KINDS)}")
    return found


def _folder(name: str, path: Path, split: str | None, weight: float) -> Place:
    """A folder saved by datasets, or one of shards: those of the split, where their names tell splits apart.

    With no split named, shards that name none belong to the training split, and never those of another one.
    """
    alone = _without(name, split)
    if (path / "dataset_dict.json").exists():
        path, split = path / chosen_split(name, alone, _splits_saved(alone, path), split), None
    if (path / "state.json").exists():
        return Place(name, table=_saved(name, path, split), weight=weight)
    files = _files_below(name, path)
    found = _readable([one for one in files if not ABOUT.fullmatch(one.name)], name)
    listed = _splits_of_card(name, path)
    split_of = {
        one: listed.get(os.path.abspath(one)) if listed else _split_in(one.relative_to(path)) for one in found
    }
    if split is None and "" in split_of.values():
        wanted = ["", DEFAULT_SPLIT]
    else:
        wanted = [chosen_split(name, alone, sorted({one for one in split_of.values() if one}), split)]
    shards = tuple(one for one in found if split_of[one] in wanted)
    not_read = tuple(
        f"{one.relative_to(path)}" for one in files if one.is_file() and kind_of(one) and one not in shards
    )
    return Place(name, shards, weight=weight, not_read=not_read)


def _files_below(name: str, folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, those behind links to other folders too, in the order of their paths.

    Raises InputError for a folder within it that cannot be looked into.
    """
    top, seen, files = folder.resolve(), set[Path](), list[Path]()

    def refuse(problem: OSError) -> None:
        raise InputError(f"{name}: cannot be read ({first_line(problem)})")

    def is_new(inner: Path) -> bool:
        """Whether a folder is read here: links back into the set, or to what was read, would take rows twice or never end."""
        where = inner.resolve()
        is_read = where in seen or (inner.is_symlink() and (where == top or top in where.parents))
        seen.add(where)
        return not is_read

    for above, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        inner[:] = [one for one in sorted(inner) if not one.startswith(".") and is_new(Path(above, one))]
        files += [Path(above, one) for one in names if not one.startswith(".")]
    return sorted(files)


def _splits_of_card(name: str, path: Path) -> dict[str, str]:
    """The split of each file, by its whole path, that a data set's card tells as it does on the hub; empty without such a card.

    Raises InputError where the card tells configurations apart, and none of them is the default.
    """
    card = path / "README.md"
    front = CARD.match(card.read_text("utf-8", "replace")) if card.is_file() else None
    if front is None or not LISTS_FILES.search(front[0]):
        return {}
    import datasets

    try:
        files: Any = datasets.load_dataset_builder(f"{path}").config.data_files or {}
    except Exception as problem:
        if "Config name is missing" in f"{problem}":
            known = ", ".join(datasets.get_dataset_config_names(f"{path}"))
            raise InputError(
                f"{name}: its README.md tells configurations apart ({known}); name the files of one of them"
            ) from None
        raise InputError(f"{card}: the files that it lists are not there ({first_line(problem)})") from None
    return {os.path.abspath(one): f"{split}" for split, paths in files.items() for one in paths}


def _split_in(path: Path) -> str:
    """The split that a file's name tells, else the folder's it lies in; "" for none."""
    for part in reversed(path.parts):
        words = {split_called(word) for word in re.split(r"[^a-z]+", part.lower())}
        if found := next((split for split in SPLITS.values() if split in words), ""):
            return found
    return ""


def _without(name: str, split: str | None) -> str:
    """The name of a source without the split behind it."""
    return name if split is None else name.removesuffix(f":{split}")


def _splits_saved(alone: str, path: Path) -> list[str]:
    """The splits of a folder that datasets saved."""
    try:
        there = json.loads((path / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, LookupError, TypeError) as problem:
        raise InputError(
            f"{path / 'dataset_dict.json'}: does not say which splits there are ({first_line(problem)}); "
            f"name one of them: {alone}/SPLIT"
        ) from None
    return [one for one in there if isinstance(one, str)] if isinstance(there, list) else []


def _saved(name: str, path: Path, split: str | None) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(f"{path}")
    except Exception as problem:
        raise InputError(f"{name}: cannot be read ({first_line(problem)})") from None
    if split not in (None, f"{found.split or DEFAULT_SPLIT}"):
        raise InputError(f"{name}: holds one table and no split {split}; write {_without(name, split)}")
    return found


def _hub(name: str, weight: float) -> Place:
    found = HUB_NAME.fullmatch(hub_name(name, NOT_HERE, most_slashes=2))
    if found is None:
        raise InputError(f"{shown(name)}: {NOT_HERE}")
    from rlhf.data.hub import fetched

    repository, inside, split, revision = found["name"], found["inside"], found["split"], found["revision"]
    files, sha = fetched(name, repository, inside, split, revision)
    return Place(name, tuple(files), weight=weight, revisions={repository: sha})


def table_rows(place: Place) -> Iterator[tuple[str, Any]]:
    """(place, row) of a table of datasets, without the guesses of its features."""
    number = 0
    for batch in place.table.with_format("arrow").iter(batch_size=256):
        for row in batch_rows(batch, place.shown):
            number += 1
            yield f"{place.shown}:{number}", row
