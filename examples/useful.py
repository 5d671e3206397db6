"""What turns rambling into something useful: the same questions to a base model, after SFT and after PPO, and what it cost.

python -m examples.useful [--recipe quickstart] [--store store] [--report results.json of an `rlhf align` of your own]

Steps that the store has already are not done again. Labels are by simulated labelers, and the judge is the starter world's checker.
"""

import json
from pathlib import Path

from examples import results
from rlhf.errors import InputError
from rlhf.store import Store
from stages import quickstart
from stages.cli.options import read_recipe
from stages.report.tables import seconds_by_step

NUM_QUESTIONS = 4
MODELS = ("base", "sft", "ppo")


def chosen(report):
    """Of a report of `rlhf quickstart` or `rlhf align`: comparisons, some answers of each model, and the cost."""
    return {
        "comparisons": [
            {
                **{key: row.get(key) for key in ("policy", "against", "win_rate", "ci95", "n", "split")},
                "temperature": row.get(
                    "temperature", report.get("temperature")
                ),  # `rlhf align` has one for all
            }
            for row in report["comparisons"]
        ],
        "examples": [
            {
                "prompt": row["prompt"],
                **{name: row["answers"][name] for name in MODELS if name in row["answers"]},
            }
            for row in report["examples"][:NUM_QUESTIONS]
        ],
        "cost": cost(report),
    }


def cost(report):
    """Seconds of each step, and GiB at the most where it was done now: of one done before only its training is known."""
    return {
        name: {
            "seconds": seconds,
            "gib": report["peak_gib"][name] if seconds == report["seconds"][name] else None,
        }
        for name, seconds in seconds_by_step(report).items()
    }


def read_report(path):
    """What `chosen` takes of a results.json. Raises InputError where the file is none."""
    try:
        return chosen(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise InputError(
            f"{path}: no results.json of `rlhf align` or `rlhf quickstart` ({problem!r})"
        ) from None


def run(given):
    """The quickstart's numbers, and those of another report where one is named."""
    other = read_report(given.report) if given.report else None  # before minutes of work
    store = Store(Path(given.store))
    report = quickstart.run(
        read_recipe(given.recipe), store, str(store.root / "labels.db"), name=given.recipe, seed=given.seed
    )
    found = {f"the {given.recipe} recipe": chosen(report)}
    if other:
        found[f"the run {Path(given.report).resolve().parent.name}"] = other
    return found


if __name__ == "__main__":
    results.main("useful", __doc__, run, recipe="quickstart", store="store", report="", seed=0)
