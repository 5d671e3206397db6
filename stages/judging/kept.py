"""Measurements as JSON files in a folder, each made once for the same inputs."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data import fingerprint
from rlhf.durable import append_lines, write_text
from rlhf.machine.memory import FreedMemory, give_back_freed_memory
from stages.judging.sampled import SampleFile

T = TypeVar("T")
Asked = TypeVar("Asked")
GIVE_BACK_EVERY_S = 10.0  # it takes a third of a second and more: not before every small measurement


class MeasurementCache:
    """Keeps every measurement by a hash of what went into it: in memory, and where there is a folder in files of it."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.freed = FreedMemory(GIVE_BACK_EVERY_S, give_back_freed_memory)
        self.made: dict[tuple[str, str], Any] = {}  # by name and hash
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def get_or_measure(self, name: str, inputs: Any, measure: Callable[[], T]) -> T:
        """What these inputs gave under this name before; it is measured where there is nothing, or a damaged file."""
        key = fingerprint(inputs)
        path = self._path(name, key)
        if (name, key) not in self.made:
            self._read(name, path)
        if (name, key) not in self.made:
            self.say(f"judge: {name}")
            self.freed.step()
            self.made[name, key] = measure()
            if path:
                write_text(path, _line(key, self.made[name, key]) + "\n")
        return self.made[name, key]

    def get_or_sample(self, name: str, inputs: Any, measure: Callable[[SampleFile | None], T]) -> T:
        """`get_or_measure` of what is sampled first; the file keeps the samples until the measurement is there."""
        path = self._path(name, fingerprint(inputs))
        file = SampleFile(path.with_suffix(".samples"), name) if path else None
        found = self.get_or_measure(name, inputs, lambda: measure(file))
        if file and file.path:
            file.path.unlink(missing_ok=True)
        return found

    def get_or_measure_each(
        self, name: str, shared: Any, asked: Sequence[Asked], measure: Callable[[Asked], T], at_once: int
    ) -> list[T]:
        """`get_or_measure` of each one asked, several at once. What one gave stays, where another fails too.

        shared: what goes into all of them.
        """
        path = self._path(name, fingerprint(shared))
        self._read(name, path)
        keys = [fingerprint([shared, one]) for one in asked]
        missing = {key: one for key, one in zip(keys, asked, strict=True) if (name, key) not in self.made}
        if missing:
            self.say(f"judge: {name}, {len(missing)} of {len(keys)}")
        writing = threading.Lock()

        def measured(item: tuple[str, Asked]) -> None:
            result = measure(item[1])
            with writing:
                self.made[name, item[0]] = result
                if path:
                    append_lines(path, [_line(item[0], result)])

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(measured, missing.items()))
        return [self.made[name, key] for key in keys]

    def _path(self, name: str, key: str) -> Path | None:
        return self.folder and self.folder / f"{_file_name(name)} {key[:12]}.json"

    def _read(self, name: str, path: Path | None) -> None:
        """Take what a file holds; a line that a crash or anything else damaged is said, and counts as not there."""
        for line in path.read_bytes().splitlines() if path and path.exists() else ():
            try:
                saved = json.loads(line)
                self.made[name, saved["inputs"]] = saved["result"]
            except (ValueError, LookupError, TypeError):
                self.say(f"judge: {path}: a line is damaged; what it held is measured again")


def _line(key: str, result: Any) -> str:
    return json.dumps({"inputs": key, "result": result}, ensure_ascii=False)


def _file_name(name: str) -> str:
    """The name without what a file's may not hold; a policy may be named by a path or an address."""
    return "".join(c if c.isalnum() or c in " .-_" else "-" for c in name)[:120]
