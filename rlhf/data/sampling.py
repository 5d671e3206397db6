"""A few rows at random from files of any size, without reading the others."""

import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.data.files import LINES
from rlhf.data.json_text import json_row
from rlhf.data.places import Place

CHUNK = 2**22
SHUFFLED_WHOLE = 1_000_000


def random_order(num_rows: int, seed: int) -> Iterator[int]:
    """Places below num_rows in a random order, each once; of many rows the first come at once."""
    source = random.Random(seed)
    if num_rows <= SHUFFLED_WHOLE:
        places = list(range(num_rows))
        source.shuffle(places)
        yield from places
        return
    seen: set[int] = set()
    while len(seen) < num_rows:
        place = source.randrange(num_rows)
        if place not in seen:
            seen.add(place)
            yield place


def chosen_lines(places: list[Place], num_rows: int, seed: int) -> Iterator[tuple[int, str, Any]] | None:
    """(number, place, row) in a random order of one plain file of JSON lines; None for any other source.

    None too where the rows only say something together, or so many are wanted that reading all is no more work.
    """
    if len(places) != 1 or len(places[0].files) != 1 or places[0].weight != 1 or places[0].split:
        return None
    path = places[0].files[0]
    if path.suffix.lower() not in LINES or path.stat().st_size < CHUNK or not _stands_alone(path):
        return None
    starts = _line_starts(path)
    return _lines(path, starts, seed) if num_rows < len(starts) // 2 else None


def _stands_alone(path: Path) -> bool:
    from rlhf.data.formats.table import PROMPTS, Together, fitting
    from rlhf.data.rows import Row

    with path.open("rb") as file:
        row = json_row(file.readline())
    if not isinstance(row, dict):
        return False
    found = fitting(Row({name.lower(): value for name, value in row.items() if value is not None}), PROMPTS)
    return not any(isinstance(one.reader(PROMPTS), Together) for one in found)


def _line_starts(path: Path) -> "array[int]":
    """Where each line of the file begins, in bytes."""
    import numpy

    starts, at = array("Q", [0]), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            ends = numpy.flatnonzero(numpy.frombuffer(data, dtype=numpy.uint8) == 10)
            starts.frombytes((ends + (at + 1)).astype(numpy.uint64).tobytes())
            at += len(data)
    if starts[-1] == at:
        starts.pop()
    return starts


def _lines(path: Path, starts: "array[int]", seed: int) -> Iterator[tuple[int, str, Any]]:
    with path.open("rb") as file:
        for place in random_order(len(starts), seed):
            file.seek(starts[place])
            line = file.readline()
            if line.strip():
                yield place, f"{path}:{place + 1}", json_row(line)
