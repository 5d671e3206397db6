"""Labels to and from files: K-wise rankings, pairs as trl takes them, demonstrations."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from annotate.labels import LabelStore, NewTask
from annotate.submit import Source, Submission
from rlhf.data import Demonstration, Prompt, Ranking, as_messages, fingerprint
from rlhf.errors import InputError
from rlhf.store import write_atomically

FORMATS = ("rankings", "pairs", "demonstrations")
IMPORTED = "imported"


def ranking_rows(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """One row per ranking: prompt, completions, ranks, labeler, flags, ratings. `read_rankings` reads them back."""
    return [
        {
            "prompt": as_messages(ranking.prompt),
            "completions": list(ranking.completions),
            "ranks": list(ranking.ranks),
            "labeler": ranking.labeler,
            "flags": [list(flags) for flags in ranking.flags],
            "ratings": list(ranking.ratings),
        }
        for ranking in rankings
    ]


def pair_rows(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """One row per decided pair in trl's conversational preference format: prompt, chosen, rejected."""
    return [
        {
            "prompt": as_messages(ranking.prompt),
            "chosen": [{"role": "assistant", "content": ranking.completions[better]}],
            "rejected": [{"role": "assistant", "content": ranking.completions[worse]}],
            "labeler": ranking.labeler,
        }
        for ranking in rankings
        for better, worse in ranking.pairs()
    ]


def demonstration_rows(demonstrations: Sequence[Demonstration]) -> list[dict[str, Any]]:
    """One row per demonstration in trl's conversational prompt-completion format."""
    return [
        {"prompt": as_messages(row.prompt), "completion": [{"role": "assistant", "content": row.completion}]}
        for row in demonstrations
    ]


def export_rows(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Write rows as .jsonl, .csv or .parquet by the target's ending, or as a `datasets` folder without one.

    A file appears whole or not at all. Raises InputError for another ending or an existing folder.
    """
    writers: dict[str, Callable[[Path], None]] = {
        ".jsonl": lambda path: _write_jsonl(rows, path),
        ".csv": lambda path: _write_csv(rows, path),
        ".parquet": lambda path: _dataset(rows).to_parquet(str(path)),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix in writers:
        write_atomically(target, writers[target.suffix])
    elif target.suffix:
        raise InputError(f"{target}: write to .jsonl, .csv, .parquet or a folder")
    elif target.exists():
        raise InputError(f"{target} exists already; name a folder that does not")
    else:
        _dataset(rows).save_to_disk(str(target))


def _dataset(rows: Sequence[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(list(rows))


def _write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def cell(value: Any) -> str:
    """A table cell that no spreadsheet takes for a formula."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "'" + text if text[:1] in tuple("=+-@\t\r") else text


def import_rankings(
    store: LabelStore, batch: str, rankings: Sequence[Ranking], keep_ranks: bool = True
) -> int:
    """Make a batch from rankings, with their ranks as answers of their labelers; returns the number of tasks.

    Rankings of the same answers become one task. With keep_ranks=False the tasks wait to be ranked anew.
    """
    tasks: dict[str, tuple[Prompt, tuple[str, ...], list[Ranking]]] = {}
    for ranking in rankings:
        key = fingerprint([ranking.prompt, list(ranking.completions)])
        tasks.setdefault(key, (ranking.prompt, ranking.completions, []))[2].append(ranking)
    overlap = (
        max(len({_name(ranking) for ranking in given}) for _, _, given in tasks.values()) if keep_ranks else 1
    )
    new = [NewTask(prompt=prompt, completions=completions) for prompt, completions, _ in tasks.values()]
    store.add_batch(batch, new, overlap=overlap)
    if keep_ranks:
        _submit_imported(store, batch, [given for _, _, given in tasks.values()])
    return len(tasks)


def _submit_imported(store: LabelStore, batch: str, by_task: Sequence[list[Ranking]]) -> None:
    by_labeler: dict[str, dict[str, Ranking]] = {}
    for given in by_task:
        for ranking in given:
            key = fingerprint([ranking.prompt, list(ranking.completions)])
            by_labeler.setdefault(_name(ranking), {})[key] = ranking
    for name, rankings in by_labeler.items():
        store.add_labeler(name, origin="imported")
        for task in store.lease_many(name, len(by_task), batch):
            found = rankings.get(fingerprint([task.prompt, list(task.completions)]))
            if found is None:
                store.release(name, task.id)
                continue
            client_id = fingerprint([batch, task.id, name])[:32]
            answer = Submission(
                task_id=task.id,
                client_id=client_id,
                ranks=found.ranks,
                ratings=found.ratings,
                flags=found.flags,
            )
            store.submit_many(name, [answer], Source(origin="import"))


def _name(ranking: Ranking) -> str:
    return ranking.labeler or IMPORTED
