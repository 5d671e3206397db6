"""Demonstrations that an SFT entry keeps, so that nobody has to read its file again."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf.data import Demonstration, Prompt, read_demonstrations
from rlhf.durable import write_text
from rlhf.starter.demonstrations import demonstrations as starter_demonstrations
from rlhf.store import Entry

NUM_KEPT = 200  # whose mean reward a reward model sets to zero
FILE = "demonstrations.json"


def keep_demonstrations(rows: Sequence[Demonstration], folder: Path) -> None:
    """Write the first NUM_KEPT rows into an entry's folder."""
    write_text(folder / FILE, json.dumps([asdict(row) for row in rows[:NUM_KEPT]], ensure_ascii=False))


def kept_demonstrations(sft: Entry | None) -> list[tuple[Prompt, str]]:
    """Prompt and completion of up to NUM_KEPT demonstrations an SFT entry was trained on; empty for other models.

    An entry from before they were kept names its file, which is read. Raises InputError where that is gone.
    """
    if sft is None or sft.stage != "sft":
        return []
    settings = sft.manifest["settings"]
    if (sft.path / FILE).exists():
        rows = json.loads((sft.path / FILE).read_text())
        return [(row["prompt"], row["completion"]) for row in rows]
    if settings["data"] is None:
        made = starter_demonstrations("train", settings["num_demonstrations"], settings["seed"])[:NUM_KEPT]
    else:
        made = read_demonstrations(settings["data"], settings.get("skip_bad_rows", False))[:NUM_KEPT]
    return [(row.prompt, row.completion) for row in made]
