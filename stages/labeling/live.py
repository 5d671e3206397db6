"""Fresh answers for live batches, in a process of its own: `python -m stages.labeling.live STORE PARENT`.

It meets the labeling app in the label store only: takes the prompts that labelers will need next, samples, and makes
tasks of them. No page ever waits for it, and a sampler that dies leaves its prompts to the next one.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotate.labels import LabelStore
from annotate.store.database import DatabaseDown
from annotate.work import live
from annotate.work.batches import BatchSettings, overview
from rlhf.data import Prompt, read_prompts
from rlhf.errors import InputError, LabelError, RLHFError
from rlhf.starter.items import take_items
from rlhf.store import STAGES, Store

PAUSE_S = 1.0
PROMPTS_AT_ONCE = 4
ANSWERING = ("base", "sft", "ppo")  # stages whose checkpoints write text


def add_batch(
    labels: LabelStore, store: Store, reference: str, name: str, prompts: str | None, k: int
) -> None:
    """Make the live batch `name` of a checkpoint's answers, where it is not there yet.

    prompts: a file; the starter world's without one. Raises InputError for a batch that is not live.
    """
    if reference.split("/")[0].split(":")[0] in STAGES:
        reference = store.resolve(reference).ref
    there = {batch.name: batch.live for batch in overview(labels.database)}
    if name in there:
        if not there[name]:
            raise InputError(
                f"batch {name}: is there already, and its answers are fixed; choose another --batch"
            )
        return
    rows: Sequence[Prompt] = (
        read_prompts(prompts) if prompts else [item.prompt for item in take_items("train", 200, 0)]
    )
    live.add_live_batch(labels.database, BatchSettings(name=name), rows, reference, k)


class Sampler:
    """A sampling process for an app: runs from `start` on, again whenever it dies, until `close`."""

    def __init__(self, store: Store, labels_url: str, say: Callable[[str], None]) -> None:
        self.store, self.say = store, say
        self.command = [sys.executable, "-m", "stages.labeling.live", str(store.root), str(os.getpid())]
        # Not on the command line, where everybody on the machine could read a database's password.
        self.environment = os.environ | {"RLHF_LABELS": labels_url}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep_running, daemon=True)
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def checkpoints(self) -> list[str]:
        """Checkpoints that write text, newest first within a stage; damaged ones are said and left out."""
        entries = [
            self.store.entries(stage, lambda damaged: self.say(f"left out: {damaged}")) for stage in ANSWERING
        ]
        return [entry.ref for of_stage in entries for entry in reversed(of_stage)]

    def start(self) -> None:
        """Run the process from now on."""
        with self.lock:
            if not self.thread.is_alive() and not self.ended.is_set():
                self.thread.start()

    def close(self) -> None:
        self.ended.set()
        if self.process is not None:
            self.process.terminate()
        if self.thread.is_alive():
            self.thread.join(timeout=10)

    def _keep_running(self) -> None:
        pause_s = PAUSE_S
        while not self.ended.is_set():
            started = time.monotonic()
            self.process = subprocess.Popen(self.command, env=self.environment)
            status = self.process.wait()
            pause_s = PAUSE_S if time.monotonic() - started > 60 else min(2 * pause_s, 60.0)
            if not self.ended.wait(pause_s):
                self.say(f"the sampler ended with status {status}; starting it again")


def work(store: Store, labels_url: str, parent: int) -> None:
    """Answer what labelers will need, until the process that started this one is gone.

    Raises SystemExit where a model cannot be loaded: its prompts stay claimed for as long as a claim holds, and whoever
    keeps this process running starts it again after a pause.
    """
    model: _Model | None = None
    with LabelStore(labels_url) as labels:
        while os.getppid() == parent:
            unloadable = set()
            wanted = _claimed(labels)
            for request in wanted:
                if request.checkpoint in unloadable:
                    continue
                try:
                    if model is None or model.checkpoint != request.checkpoint:
                        model = None  # two of them may not fit into the memory
                        model = _Model(store, request.checkpoint)
                except Exception as error:
                    unloadable.add(request.checkpoint)
                    say(f"{request.checkpoint} cannot be loaded; its prompts wait: {_reason(error)}")
                    continue
                if not _answer(labels, model, request, lambda: os.getppid() == parent):
                    model = None  # it may be past saving, as after an error of a GPU's: the next prompt loads it anew
            if unloadable:
                raise SystemExit(1)
            if not wanted:
                time.sleep(PAUSE_S)


def _claimed(labels: LabelStore) -> list[live.SamplingRequest]:
    try:
        return live.claim_requests(labels.database, PROMPTS_AT_ONCE)
    except LabelError:
        return []  # the database is away for now


def _answer(
    labels: LabelStore, model: "_Model", request: live.SamplingRequest, goes_on: Callable[[], bool]
) -> bool:
    """Make a task of a prompt, or give the prompt up where it is to blame; whether the model is sound.

    While the database is away the answers wait for it.
    """
    database = labels.database

    def give_up(reason: str) -> None:
        with suppress(LabelError):
            _once_there(lambda: live.fail_request(database, request.id, reason[:500]), goes_on)

    try:
        texts = model.answers(request)
    except Exception as error:  # a prompt that a model stumbles over is one prompt, not the sampler's end
        reason = _reason(error)
        if isinstance(error, MemoryError | OSError) or "out of memory" in reason:
            say(f"{request.checkpoint} cannot answer now; the prompt waits: {reason}")
            return False
        give_up(reason)
        return isinstance(error, RLHFError)
    try:
        _once_there(
            lambda: live.fulfil_request(database, request.id, tuple(texts), tuple(texts.values())), goes_on
        )
    except LabelError as error:  # fewer than two answers that differ
        give_up(str(error))
    return True


def _once_there(write: Callable[[], Any], goes_on: Callable[[], bool]) -> None:
    """Write, as soon as the database is there."""
    while goes_on():
        try:
            write()
            return
        except DatabaseDown as error:
            say(f"the answers wait: {error}")
            time.sleep(PAUSE_S)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, RLHFError) else f"{type(error).__name__}: {error}"


def say(line: str) -> None:
    """To the log of the app that started this process."""
    print(f"sampler: {line}", file=sys.stderr, flush=True)


class _Model:
    """The checkpoint that answered last, kept in memory."""

    def __init__(self, store: Store, checkpoint: str) -> None:
        from rlhf.inputs import locate_model
        from rlhf.machine.devices import best_device, set_threads
        from rlhf.models.checkpoints import load_policy
        from rlhf.models.tokenizer import load_tokenizer

        set_threads(0)
        folder, _ = locate_model(store, checkpoint)
        self.checkpoint = checkpoint
        self.policy = load_policy(folder).to(best_device()).eval()
        self.tokenizer = load_tokenizer(folder)

    def answers(self, request: live.SamplingRequest) -> dict[str, bool]:
        """Different answers to one prompt, each with whether it ended."""
        from rlhf.data import as_messages
        from stages.judging.sampled import sample_answers
        from stages.labeling.sample import different

        rows = [self.tokenizer.encode_prompt(as_messages(request.prompt))] * request.k
        sampling = live.SAMPLING | request.sampling
        temperature, length = float(sampling["temperature"]), int(sampling["max_new_tokens"])
        return different(
            self.tokenizer, sample_answers(self.policy, self.tokenizer, rows, temperature, length, request.id)
        )


if __name__ == "__main__":
    from stages.quiet import quiet_libraries

    quiet_libraries()
    with suppress(KeyboardInterrupt):
        work(Store(Path(sys.argv[1])), os.environ["RLHF_LABELS"], int(sys.argv[2]))
