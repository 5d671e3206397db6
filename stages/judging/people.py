"""People as judge: a blind batch of pairs in the label store, and what they have said of it so far."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from annotate.answers.choice import Choice
from annotate.answers.chosen import chosen_annotations
from annotate.answers.snapshots import stored_answers
from annotate.labels import LabelStore, NewTask
from annotate.store.schema import Annotation
from rlhf.data import PromptRow, as_messages, fingerprint
from rlhf.errors import InputError
from stages.judging.answers import Answers

VERDICTS = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


class People:
    """Asks in batches BATCH-POLICY-AGAINST, made where they are not there yet; a pair nobody judged has no outcome."""

    def __init__(self, labels_url: str | Path | None, batch: str, say: Callable[[str], None]) -> None:
        self.name, self.labels_url, self.batch, self.say = "people", labels_url, batch, say

    def scores(self, rows: Sequence[PromptRow], whose: str, answers: Answers) -> None:
        return None

    def compare(
        self, rows: Sequence[PromptRow], answers: Mapping[str, Answers], policy: str, against: str
    ) -> list[float | None]:
        """For each prompt what most people said, 1 or 0, a tie where they are divided; None where nobody has judged."""
        texts = ([text.replace("\x00", "") for text in answers[name].texts] for name in (policy, against))
        pairs = list(zip(rows, *texts, strict=True))
        different = [(row, mine, theirs) for row, mine, theirs in pairs if mine != theirs]
        batch = "-".join([self.batch, *(_word(name) for name in (policy, against))])
        with LabelStore(self.labels_url) as labels:
            self._put_up(labels, batch, different, policy, against)
            said = _verdicts(labels, batch, policy)
        return [
            0.5 if mine == theirs else _majority(said.get(_key(row, mine, theirs), []))
            for row, mine, theirs in pairs
        ]

    def _put_up(
        self,
        labels: LabelStore,
        batch: str,
        pairs: Sequence[tuple[PromptRow, str, str]],
        policy: str,
        against: str,
    ) -> None:
        source = fingerprint([[row.prompt, mine, theirs] for row, mine, theirs in pairs])
        known = labels.batch_source(batch)
        if known not in (None, source):
            raise InputError(f"batch {batch}: is there already, of other answers; choose another --name")
        if not pairs or known == source:
            return
        tasks = [
            NewTask(prompt=row.prompt, completions=(mine, theirs), checkpoints=(policy, against))
            for row, mine, theirs in pairs
        ]
        labels.add_batch(batch, tasks, kind="compare", source=source)
        self.say(
            f"judge: batch {batch} waits for people, {len(tasks)} pairs; the same command reads what they said"
        )


def _verdicts(labels: LabelStore, batch: str, policy: str) -> dict[str, list[float]]:
    """1 where `policy`'s answer was preferred, 0 where not, 0.5 for a tie, of each pair of texts."""
    found: dict[str, list[float]] = defaultdict(list)
    if batch not in labels.batches():
        return found
    with labels.database.read() as connection:
        ids = chosen_annotations(connection, Choice(batch=batch), Annotation.kind == "compare")
        for answer in stored_answers(connection, ids):
            mine = answer.checkpoints.index(policy)
            verdict = VERDICTS[str(answer.row.verdict)]
            texts = answer.completions[mine], answer.completions[1 - mine]
            key = fingerprint([as_messages(answer.prompt), *texts])
            found[key].append(verdict if mine == 0 else 1 - verdict)
    return found


def _key(row: PromptRow, mine: str, theirs: str) -> str:
    return fingerprint([as_messages(row.prompt), mine, theirs])


def _majority(verdicts: Sequence[float]) -> float | None:
    if not verdicts:
        return None
    mean = sum(verdicts) / len(verdicts)
    return 0.5 if mean == 0.5 else float(mean > 0.5)


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")
