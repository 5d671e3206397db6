"""Active selection: labelers get first what the current reward model is least sure of."""

from collections.abc import Callable
from pathlib import Path

from annotate.labels import LabelStore
from annotate.work.priority import open_tasks, set_priorities, uncertainty
from rlhf.errors import InputError
from rlhf.inputs import locate_model
from rlhf.learning.rewards import score_completions
from rlhf.machine.devices import best_device, set_threads
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store


def run(
    reward: str,
    batch: str,
    store: Store,
    labels_url: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Order a batch's open tasks by the reward model's uncertainty about them; returns how many there are."""
    folder, _ = locate_model(store, reward)
    with LabelStore(labels_url, make=False) as labels:
        tasks = [task for task in open_tasks(labels.database, batch) if len(task.completions) > 1]
        if not tasks:
            raise InputError(f"batch {batch}: no open task with answers to rank")
        say(f"prioritize: {len(tasks)} tasks of batch {batch} scored by {reward}")
        set_threads(0)
        model, tokenizer = load_scalar(folder).to(best_device()), load_tokenizer(folder)
        rows = [(task.prompt, text) for task in tasks for text in task.completions]
        scores = iter(score_completions(model, tokenizer, rows))
        unsure = {task.id: uncertainty([next(scores) for _ in task.completions]) for task in tasks}
        set_priorities(labels.database, batch, unsure)
    return len(tasks)
