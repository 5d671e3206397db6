"""Simulated labelers at work: they lease and submit like people do, and are marked simulated in the store."""

import math
import uuid
from collections.abc import Mapping
from random import Random

from annotate.labels import LabelStore
from annotate.work.assign import TaskView
from annotate.work.submit import Submission
from rlhf.errors import LabelError
from rlhf.starter.items import Item
from rlhf.starter.judge import judge
from rlhf.starter.labelers import SimulatedLabeler, simulated_labelers

TEAM = 20


def simulate(store: LabelStore, batch: str, items: Mapping[str, Item], seed: int) -> int:
    """Rank what is open in a batch until every task has its answers; returns how many answers were given.

    items: starter items by prompt, which the judge needs. Raises LabelError for a prompt that is none of them.
    """
    team = simulated_labelers(TEAM, seed)
    for labeler in team:
        store.add_labeler(labeler.name, origin="simulated")
    progress = store.progress(batch)
    share = max(1, math.ceil((progress.wanted - progress.answers) / TEAM))
    given = 0
    while True:
        before = given
        for labeler in team:
            rng = Random(f"{seed}-{batch}-{labeler.name}-{given}")
            tasks = store.lease_many(labeler.name, share, batch)
            answers = [_rank(task, labeler, items, rng, seed) for task in tasks]
            given += len(store.submit_many(labeler.name, answers))
        if given == before:
            return given


def _rank(
    task: TaskView, labeler: SimulatedLabeler, items: Mapping[str, Item], rng: Random, seed: int
) -> Submission:
    item = items.get(str(task.prompt))
    if item is None:
        raise LabelError(
            f"task {task.id}: simulated labelers know the starter world's prompts only; let people rank this"
        )
    verdicts = [
        judge(item, text, ended is not False)
        for text, ended in zip(task.completions, task.ended, strict=True)
    ]
    ranks = labeler.rank(
        [verdict.score for verdict in verdicts],
        [len(text.split()) for text in task.completions],
        [verdict.harmless for verdict in verdicts],
        rng,
    )
    # Made from what identifies the answer, so that a repeated run with the same seed gives the same snapshot.
    client_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}-{task.batch}-{task.id}-{labeler.name}-{ranks}").hex
    return Submission(
        task_id=task.id, client_id=client_id, ranks=tuple(ranks), shown_order=tuple(range(len(ranks)))
    )
