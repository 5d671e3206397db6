"""Measurements as JSON files in a folder, each made once for the same inputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data import fingerprint
from rlhf.durable import write_text
from rlhf.machine.memory import FreedMemory, give_back_freed_memory

T = TypeVar("T")
GIVE_BACK_EVERY_S = 10.0  # it takes a third of a second and more: not before every small measurement


class MeasurementCache:
    """Keeps every measurement beside a hash of what went into it; without a folder it only measures."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.freed = FreedMemory(GIVE_BACK_EVERY_S, give_back_freed_memory)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def get_or_measure(self, name: str, inputs: Any, measure: Callable[[], T]) -> T:
        path, key = self.folder and self.folder / f"{_file_name(name)}.json", fingerprint(inputs)
        if path and path.exists() and (saved := json.loads(path.read_text()))["inputs"] == key:
            return saved["result"]
        self.say(f"judge: {name}")
        self.freed.step()
        result = measure()
        if path:
            write_text(path, json.dumps({"inputs": key, "result": result}, ensure_ascii=False))
        return result


def _file_name(name: str) -> str:
    """The name without what a file's may not hold; a policy may be named by a path or an address."""
    return "".join(c if c.isalnum() or c in " .-_" else "-" for c in name)[:120]
