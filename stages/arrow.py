"""Rows made one by one, kept in Arrow files instead of the process's memory."""

import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import datasets


def arrow_rows(rows: Iterator[dict[str, Any]], features: datasets.Features, folder: Path) -> datasets.Dataset:
    """The rows as a data set, in files under `folder`, which lives as long as they are read. It may be empty."""
    first = next(rows, None)
    if first is None:
        return datasets.Dataset.from_dict({name: [] for name in features}, features)
    try:
        return datasets.Dataset.from_generator(
            lambda: chain([first], rows), features=features, cache_dir=str(folder / "rows"), fingerprint=uuid.uuid4().hex
        )  # fmt: skip
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None
