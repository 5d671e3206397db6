"""Completions of many prompts by a policy: a bar while they are drawn, and an interrupted run goes on with what is missing."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from rlhf.durable import FORBIDDEN, HOLDER, append_lines
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sampling.generate import Sample, SamplingSettings, generate
from rlhf.store import Store

BATCH_SIZE = 256
WRITE_EVERY_S = 1.0


@dataclass
class SampleFile:
    """The samples of one call, a line each with its row; the path says everything that decides them.

    path: None where nothing can be kept. name: of the bar. Whoever uses the samples deletes the file afterwards.
    """

    path: Path | None
    name: str
    waiting: list[str] = field(default_factory=list)
    written: float = field(default_factory=monotonic)

    def read(self) -> dict[int, Sample]:
        """The samples by row; a line that a crash cut short is left out, and its row is drawn again."""
        found = {}
        for line in self.path.read_bytes().splitlines() if self.path and self.path.exists() else ():
            try:
                row, *sample = json.loads(line)
                found[int(row)] = Sample(*sample)
            except (ValueError, TypeError):
                continue
        return found

    @contextmanager
    def drawing(self, total: int, there: int) -> Iterator[Any]:
        """What takes a row and its sample, and shows on a bar how many of all there are."""
        with tqdm(
            total=total, initial=there, desc=self.name, unit="answer", delay=1, mininterval=1, leave=False
        ) as bar:

            def add(row: int, sample: Sample) -> None:
                bar.update(1)
                self.waiting.append(json.dumps([row, sample.tokens, sample.logprobs, sample.ended]))
                if monotonic() - self.written > WRITE_EVERY_S:
                    self._write()

            try:
                yield add
            finally:
                self._write()

    def _write(self) -> None:
        if self.path and self.waiting:
            append_lines(self.path, self.waiting)
        self.waiting, self.written = [], monotonic()


@contextmanager
def kept_until_done(
    store: Store, work: str, inputs_hash: str, say: Callable[[str], None]
) -> Iterator[Path | None]:
    """A work folder of the store that is deleted at the end; after an error it stays where something is in it.

    None where the store is read-only: then nothing is kept, and that is said.
    """
    is_new = not store.root.exists()
    try:
        folder = store.work_folder(work, inputs_hash)
    except OSError as problem:
        if problem.errno not in FORBIDDEN:
            raise
        say(f"{work}: {store.root} is read-only; an interrupted run will begin anew")
        yield None
        return
    try:
        yield folder
    except BaseException:
        if all(path.name == HOLDER for path in folder.iterdir()):
            _discard(store, work, inputs_hash, is_new)
        raise
    _discard(store, work, inputs_hash, is_new)


def _discard(store: Store, work: str, inputs_hash: str, is_new: bool) -> None:
    """Delete a work folder, and a store that it alone was in."""
    store.discard_work(work, inputs_hash)
    if is_new:
        with suppress(OSError):  # it holds something else by now
            (store.root / ".work").rmdir()
            store.root.rmdir()


def sample_answers(
    policy: Any,
    tokenizer: AnyTokenizer,
    rows: Sequence[list[int]],
    temperature: float,
    max_new_tokens: int,
    seed: int,
    file: SampleFile | None = None,
) -> list[Sample]:
    """One sample for each row of prompt tokens, in the number format the stages use; those in a file are not drawn again."""
    found = file.read() if file else {}
    missing = [row for row in range(len(rows)) if row not in found]
    if missing:
        sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
        drawing = file.drawing(len(rows), len(found)) if file else nullcontext()
        with autocast(policy.device), drawing as add:
            drawn = generate(
                policy, [rows[row] for row in missing], sampling, stop_ids=tokenizer.stop_ids,
                seed=seed, batch_size=BATCH_SIZE, places=missing, on_sample=add,
            )  # fmt: skip
        found |= dict(zip(missing, drawn, strict=True))
    return [found[row] for row in range(len(rows))]
