"""Completions of many prompts by a policy: a bar while they are drawn, and an interrupted run goes on with what is missing."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from rlhf.durable import HOLDER, append_lines
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sampling.generate import Sample, SamplingSettings, generate
from rlhf.store import Store

BATCH_SIZE = 256
WRITE_EVERY_S = 1.0


@dataclass
class SampleFile:
    """The samples of one call, a line each with its row; the path says everything that decides them.

    name: of the bar. Whoever uses the samples deletes the file once they are no longer needed.
    """

    path: Path
    name: str
    waiting: list[str] = field(default_factory=list)
    written: float = field(default_factory=monotonic)

    def read(self) -> dict[int, Sample]:
        """The samples by row; a line that a crash cut short is left out, and its row is drawn again."""
        found = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
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
        append_lines(self.path, self.waiting)
        self.waiting, self.written = [], monotonic()


@contextmanager
def kept_until_done(store: Store, work: str, inputs_hash: str) -> Iterator[Path]:
    """A work folder of the store that is deleted at the end; after an error it stays where something is in it."""
    folder = store.work_folder(work, inputs_hash)
    try:
        yield folder
    except BaseException:
        if all(path.name == HOLDER for path in folder.iterdir()):
            store.discard_work(work, inputs_hash)
        raise
    store.discard_work(work, inputs_hash)


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
    found = {row: sample for row, sample in (file.read() if file else {}).items() if row < len(rows)}
    missing = [row for row in range(len(rows)) if row not in found]
    if missing:
        sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
        drawing = file.drawing(len(rows), len(found)) if file else nullcontext()
        with autocast(policy.device), drawing as add:
            drawn = generate(
                policy, [rows[row] for row in missing], sampling, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id,
                seed=seed, batch_size=BATCH_SIZE, places=missing, on_sample=add,
            )  # fmt: skip
        found |= dict(zip(missing, drawn, strict=True))
    return [found[row] for row in range(len(rows))]
