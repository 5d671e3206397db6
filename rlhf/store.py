"""The checkpoint store: a folder of finished entries, each with a manifest; nothing half-written is ever visible.

store/STAGE/0001-NAME/ holds the Hugging Face files, the tokenizer and manifest.json. An entry is written to
store/.tmp-…, whose lock beside it says that its writer lives, every file fsynced, then renamed into place. A number is
given once, also when its entry was removed: store/STAGE/.last-number keeps the highest.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf.durable import (
    HELD,
    HOLDER,
    copy_files,
    disk_problems_explained,
    give_back_lock,
    give_usual_rights,
    hashes_under,
    hold,
    keep_lock,
    locked,
    new_folder,
    removed_afterwards,
    sync,
    sync_tree,
    write_text,
)
from rlhf.errors import StoreError
from rlhf.model_card import model_card
from rlhf.packages import commit, versions
from rlhf.settings import hashed_settings, is_made_from

CARD = "README.md"
STAGES = ("base", "sft", "reward", "ppo")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_TEXT = "at most 100 letters, digits, . _ -, of which the first is a letter or digit"
NUMBERED = re.compile(r"[0-9]+-.+")
HIDDEN = re.compile(r"\.tmp-[0-9]+-[0-9a-f]{8}(\.lock)?")
LAST_NUMBER = ".last-number"
OWN_HASH = "manifest_hash"
LOCK_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Entry:
    """A finished checkpoint."""

    stage: str
    name: str
    path: Path
    manifest: dict[str, Any]

    @property
    def ref(self) -> str:
        """stage/0001-name."""
        return f"{self.stage}/{self.path.name}"

    @property
    def hash(self) -> str:
        """Hash over the hashes of all files."""
        return str(self.manifest["hash"])


@dataclass
class Writer:
    """An entry being written: put files under `path`, set `metrics`; `entry` is there after the block.

    read: for each source of data, what was read of it and what was left out, such as `Account.manifest()` says.
    """

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    read: list[dict[str, Any]] = field(default_factory=list)
    published: Entry | None = None

    @property
    def entry(self) -> Entry:
        """The entry that was written. Only after the block has ended without an exception."""
        if self.published is None:
            raise StoreError("the entry was not published")
        return self.published


def inputs_hash(stage: str, parents: dict[str, Entry], settings: Any, data: Any, seed: int) -> str:
    """What decides an entry's content: equal hashes mean the stage need not run again.

    settings: a dictionary, or a dataclass, of which `hashed_settings` tells what counts.
    """
    found = {role: entry.hash for role, entry in parents.items()}
    text = json.dumps([stage, found, hashed_settings(settings), data, seed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The entries under a root folder, which is made when first written to.

    Stages go on by themselves where they were interrupted; with `resume_only` they refuse to start anew.
    """

    def __init__(self, root: str | Path, resume_only: bool = False) -> None:
        self.root = Path(root)
        self.resume_only = resume_only

    def entries(
        self, stage: str | None = None, damaged: Callable[[StoreError], None] | None = None
    ) -> list[Entry]:
        """Finished entries, by stage and number. Raises StoreError naming a damaged manifest.

        damaged: hears it instead, and the entry is left out.
        """
        stages = STAGES if stage is None else (stage,)
        found = []
        for path in [path for known in stages for path in self._paths(known)]:
            try:
                found.append(self._entry(path))
            except StoreError as error:
                if not path.exists():
                    continue  # another process removed it meanwhile
                if damaged is None:
                    raise
                damaged(error)
        return found

    def _paths(self, stage: str) -> list[Path]:
        """The folders of a stage's entries, by number, without copies of them. Raises StoreError where the root is a file."""
        return self._paths_and_copies(stage)[0]

    def _paths_and_copies(self, stage: str) -> tuple[list[Path], list[Path]]:
        """`_paths`, and the copies: they share their number, which is given once, and are not called as their manifest says."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root}: a file, and no checkpoint store; name a folder with --store")
        names = [path for path in (self.root / stage).glob("*") if NUMBERED.fullmatch(path.name)]
        numbered = sorted((int(path.name.split("-")[0]), path) for path in names)
        counts = Counter(number for number, _ in numbered)
        copies = [path for number, path in numbered if counts[number] > 1 and not _is_called_so(path)]
        return [path for _, path in numbered if path not in copies], copies

    def _entry(self, path: Path) -> Entry:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (OSError, ValueError, RecursionError):
            manifest = None
        if not _is_manifest(manifest):
            raise StoreError(f"{path / 'manifest.json'} is missing or damaged; restore it or remove {path}")
        return Entry(path.parent.name, path.name.split("-", 1)[1], path, manifest)

    def resolve(self, reference: str) -> Entry:
        """The entry that `ppo`, `ppo:latest`, `ppo/NAME` (the newest of that name) or `ppo/0001-NAME` names, or StoreError."""
        matching = self._matching(reference)
        if not matching:
            stage = reference.partition("/")[0]
            paths = self._paths(stage) if stage in STAGES else []
            there = ", ".join(f"{stage}/{path.name}" for path in paths) or "nothing"
            raise StoreError(
                f"{reference}: no such checkpoint in {self.root} (of that stage there is: {there})"
            )
        return self._entry(matching[-1])

    def has(self, reference: str) -> bool:
        """Whether there is an entry of that name, whole or damaged."""
        return bool(self._matching(reference))

    def _matching(self, reference: str) -> list[Path]:
        """The folders that a reference may mean, by number."""
        stage, _, name = reference.removesuffix(":latest").partition("/")
        paths = self._paths(stage) if stage in STAGES else []
        named = [path for path in paths if not name or path.name.split("-", 1)[1] == name]
        return [path for path in paths if path.name == name] or named

    def at(self, ref: str) -> Entry:
        """The entry of this very reference, stage/0001-name, as a manifest gives of a parent. Raises StoreError without."""
        found = self.resolve(ref)
        if found.ref != ref:
            raise StoreError(f"{ref}: no such checkpoint in {self.root}; {found.ref} only has that name")
        return found

    def find(self, stage: str, **inputs: Any) -> Entry | None:
        """The newest entry made from the same inputs as `new` takes, wherever files and models of this content lay then."""
        key = inputs_hash(stage, **inputs)
        for entry in reversed(self.entries(stage)):
            if entry.manifest["inputs_hash"] == key or is_made_from(entry.manifest, **inputs):
                return entry
        return None

    @contextmanager
    def new(
        self, stage: str, name: str, parents: dict[str, Entry], settings: Any, data: Any, seed: int
    ) -> Iterator[Writer]:
        """A folder to fill; when the block ends without an exception the entry becomes visible, whole."""
        check_name(stage, name)
        with disk_problems_explained(self.root), self._hidden_folder() as folder:
            writer = Writer(folder)
            yield writer
            manifest: dict[str, Any] = {
                "stage": stage,
                "name": name,
                "parents": {role: {"ref": entry.ref, "hash": entry.hash} for role, entry in parents.items()},
                "settings": settings if isinstance(settings, dict) else asdict(settings),
                "data": data,
                "read": writer.read,
                "seed": seed,
                "inputs_hash": inputs_hash(stage, parents, settings, data, seed),
                "metrics": writer.metrics,
                "versions": versions(),
                "commit": commit(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            if not (folder / CARD).exists():
                (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
            manifest["files"] = hashes_under(folder)
            manifest["hash"] = _hash_of(manifest["files"])
            manifest[OWN_HASH] = _hash_of(json.loads(json.dumps(manifest, default=str)))
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str))
            give_usual_rights(folder)
            sync_tree(folder)
            writer.published = self._publish(folder, stage, name, manifest)

    @contextmanager
    def _hidden_folder(self) -> Iterator[Path]:
        """A folder that is no entry yet, removed afterwards; while its lock is held no other process takes it for left over."""
        folder = self._hidden()
        lock = folder.with_suffix(".lock")
        try:
            with locked(self.root, LOCK_PATIENCE_S):  # nobody looks for leftovers between the two
                keep_lock(lock)
                folder.mkdir()
            with removed_afterwards(folder):
                yield folder
        finally:
            give_back_lock(lock)

    def _hidden(self) -> Path:
        return self.root.absolute() / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def _publish(self, folder: Path, stage: str, name: str, manifest: dict[str, Any]) -> Entry:
        with locked(self.root, LOCK_PATIENCE_S):
            (self.root / stage).mkdir(exist_ok=True)
            number = self._next_number(stage)
            write_text(self.root / stage / LAST_NUMBER, f"{number}\n")
            target = self.root / stage / f"{number:04d}-{name}"
            os.rename(folder, target)
            sync(target.parent)
            sync(self.root)
        return Entry(stage, name, target, manifest)

    def _next_number(self, stage: str) -> int:
        taken = [int(path.name.split("-")[0]) for path in self._paths(stage)]
        kept = self.root / stage / LAST_NUMBER
        given = kept.read_text(errors="replace").strip() if kept.exists() else ""
        return max(0, *taken, int(given) if given.isdecimal() else 0) + 1

    def verify(self, reference: str | None = None) -> list[str]:
        """What is wrong, a line per damaged, missing or unlisted file; [] if nothing. Raises StoreError without a store."""
        if not self.root.is_dir():
            raise StoreError(f"{self.root}: no store is there to verify; name another with --store")
        self._remove_leftovers()
        every = [] if reference else [self._paths_and_copies(stage) for stage in STAGES]
        copies = [path for _, found in every for path in found]
        problems = [f"{p.parent.name}/{p.name}: a copy that nothing uses; move it away" for p in copies]
        for path in (
            [self.resolve(reference).path] if reference else [path for found, _ in every for path in found]
        ):
            try:
                entry = self._entry(path)
            except StoreError as damaged:
                problems.append(f"{path.parent.name}/{path.name}: {damaged}")
                continue
            if entry.manifest.get(OWN_HASH) != _hash_of({**entry.manifest, OWN_HASH: None}):
                problems.append(f"{entry.ref}: manifest.json was edited (its own hash differs)")
            now = hashes_under(entry.path)
            for name, digest in entry.manifest["files"].items():
                if name not in now:
                    problems.append(f"{entry.ref}: {name} is missing")
                elif now[name] != digest:
                    problems.append(f"{entry.ref}: {name} is damaged (sha256 differs)")
            problems += [
                f"{entry.ref}: {name} was added later" for name in now.keys() - entry.manifest["files"].keys()
            ]
        return problems

    def _remove_leftovers(self) -> None:
        """Delete what killed processes left, here or on another machine: whoever still writes holds the lock of its folder."""
        left = [path for path in self.root.absolute().glob(".tmp-*") if HIDDEN.fullmatch(path.name)]
        if not left:
            return
        # In another user's store nothing is ours to delete.
        with contextlib.suppress(OSError), locked(self.root, LOCK_PATIENCE_S):
            for folder in {path.with_suffix("") for path in left}:
                lock = folder.with_suffix(".lock")
                if lock not in HELD and keep_lock(lock) is None:
                    shutil.rmtree(folder, ignore_errors=True)
                    give_back_lock(lock)

    def remove(self, reference: str, force: bool = False) -> Entry:
        """Delete an entry. Raises StoreError while another entry names it as a parent, unless forced."""
        entry = self.resolve(reference)
        children = [
            other.ref
            for other in self.entries()
            if entry.ref in (parent["ref"] for parent in other.manifest["parents"].values())
        ]
        if children and not force:
            raise StoreError(f"{entry.ref} is a parent of {', '.join(children)}; remove these or use --force")
        with locked(self.root, LOCK_PATIENCE_S):
            hidden = self._hidden()
            os.rename(entry.path, hidden)
            sync(entry.path.parent)
        shutil.rmtree(hidden, ignore_errors=True)  # what stays is a leftover
        return entry

    def export(
        self, reference: str, folder: str | Path, finish: Callable[[Path], None] = lambda folder: None
    ) -> Path:
        """Copy an entry's files to a new folder that transformers can load; `finish` may change them before it is there.

        Raises StoreError for a folder among the entries.
        """
        entry, target = self.resolve(reference), Path(folder)
        if any((self.root / stage).resolve() in target.resolve().parents for stage in STAGES):
            raise StoreError(f"{target} would lie among the store's entries; name a folder elsewhere")
        with new_folder(target) as new:
            copy_files(entry.path, new)
            finish(new)
        return target

    def work_folder(self, stage: str, inputs_hash: str) -> Path:
        """Where a stage keeps its state until its entry is published; with `resume_only` StoreError where nothing was saved."""
        folder = self._work(stage, inputs_hash)
        if self.resume_only and not _has_saved(folder):
            raise StoreError(
                f"--resume: no {stage} run with these settings and data was interrupted after a save; "
                "leave it out to start one"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if os.environ.get("RANK", "0") == "0":  # of a run of several processes the first one holds the folder
            hold(folder)
        return folder

    def discard_work(self, stage: str, inputs_hash: str) -> None:
        """Delete a stage's training state."""
        folder = self._work(stage, inputs_hash)
        shutil.rmtree(folder, ignore_errors=True)
        give_back_lock(folder / HOLDER)

    def _work(self, stage: str, inputs_hash: str) -> Path:
        return self.root.absolute() / ".work" / f"{stage}-{inputs_hash[:16]}"


def check_name(stage: str, name: str) -> None:
    """Raises StoreError for what cannot be the stage and name of a new entry."""
    if stage not in STAGES or not NAME.fullmatch(name):
        raise StoreError(f"{stage}/{name}: use one of {', '.join(STAGES)} and a name of {NAME_TEXT}")


def _is_called_so(path: Path) -> bool:
    """Whether an entry's folder has the name that its manifest gives; true of a manifest that cannot be read."""
    try:
        name = json.loads((path / "manifest.json").read_text())["name"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return True
    return path.name.split("-", 1)[1] == name


def _is_manifest(found: Any) -> bool:
    """Whether this has what readers of manifests take for granted."""
    if not isinstance(found, dict):
        return False
    texts = all(isinstance(found.get(name), str) for name in ("hash", "inputs_hash", "created"))
    tables = all(isinstance(found.get(name), dict) for name in ("parents", "settings", "metrics", "files"))
    if not (texts and tables and isinstance(found.get("data"), dict | list)):
        return False
    parents = (parent for parent in found["parents"].values())
    return all(isinstance(digest, str) for digest in found["files"].values()) and all(
        isinstance(parent, dict) and all(isinstance(parent.get(name), str) for name in ("ref", "hash"))
        for parent in parents
    )


def _has_saved(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _hash_of(content: dict[str, Any]) -> str:
    """sha256 of what a manifest says, its own hash aside."""
    counted = {name: value for name, value in content.items() if name != OWN_HASH}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
