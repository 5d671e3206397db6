"""Which checkpoints can be talked to, and which reward model and reference belong to each."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import InputError, StoreError
from rlhf.store import Entry, Store

NO_SUCH_MODEL = "model_not_found"
POLICIES = ("ppo", "sft", "base")


@dataclass(frozen=True)
class Checkpoint:
    """A policy by the name people know it by. stage and created are empty for a model from outside the store."""

    name: str
    folder: str
    stage: str = ""
    created: str = ""
    starter: bool = False  # knows the words of the starter world only


class Checkpoints:
    """The store's policies, newest stage first, after the models named besides (folders or hub ids).

    The store is read anew each time, so that a checkpoint finished meanwhile can be talked to. A damaged one is left out
    of lists, and named on stderr once.
    """

    def __init__(self, store: Store, others: Sequence[str] = ()) -> None:
        self.store = store
        self.others = [
            Checkpoint(name, str(Path(name).resolve()) if Path(name).is_dir() else name) for name in others
        ]
        self.left_out: set[str] = set()

    def _entries(self, stage: str) -> list[Entry]:
        return self.store.entries(stage, self._leave_out)

    def _leave_out(self, damaged: StoreError) -> None:
        if str(damaged) not in self.left_out:
            self.left_out.add(str(damaged))
            print(f"left out: {damaged}", file=sys.stderr, flush=True)

    def all(self) -> list[Checkpoint]:
        """Everything that can be talked to; the first is what a conversation starts with."""
        entries = [entry for stage in POLICIES for entry in reversed(self._entries(stage))]
        return [*self.others, *(_checkpoint(entry) for entry in entries)]

    def named(self, name: str) -> Checkpoint:
        """A checkpoint by its name or a shorter reference to it (ppo, sft/NAME).

        Raises InputError where there is none, StoreError for a damaged one.
        """
        for known in self.others:
            if known.name == name:
                return known
        entry = self.store.resolve(name) if self.store.has(name) else None
        if entry is None or entry.stage not in POLICIES:
            there = ", ".join(checkpoint.name for checkpoint in self.all()) or "none"
            raise InputError(
                f"model {name!r}: no such model; there is: {there}", param="model", code=NO_SUCH_MODEL
            )
        return _checkpoint(entry)

    def reference(self, name: str) -> Checkpoint | None:
        """What the checkpoint was trained from, which its KL is measured to."""
        return self._parent(name, ("policy", "sft", "base"))

    def reward(self, name: str) -> Checkpoint | None:
        """The reward model the checkpoint was trained against, else the newest one."""
        newest = self._entries("reward")[-1:]
        return self._parent(name, ("reward",)) or (_checkpoint(newest[0]) if newest else None)

    def _parent(self, name: str, roles: Sequence[str]) -> Checkpoint | None:
        if any(known.name == name for known in self.others):
            return None
        parents = self.store.resolve(name).manifest["parents"]
        with suppress(StoreError):  # removed from the store since
            return next(
                (_checkpoint(self.store.at(parents[role]["ref"])) for role in roles if role in parents),
                None,
            )
        return None


def _checkpoint(entry: Entry) -> Checkpoint:
    starter = any(source.startswith("starter") for source in entry.manifest["data"])
    return Checkpoint(entry.ref, str(entry.path), entry.stage, entry.manifest["created"], starter)
