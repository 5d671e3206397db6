"""Pool the reports of several seeds of `rlhf quickstart` into the table and the picture of docs/results.md.

python benchmarks/pool_seeds.py store/reports/quickstart-* --picture docs/images/quickstart.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.measuring.evaluate import ratio_interval
from rlhf.measuring.plots import intervals


def outcomes(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(won, decided), one entry per prompt: a bootstrap by prompt needs only how many of each there are."""
    decided = row["n"] - row["ties"]
    won = round(row["win_rate"] * decided)
    return np.repeat([1.0, 0.0, 0.0], [won, decided - won, row["ties"]]), np.repeat(
        [1.0, 0.0], [decided, row["ties"]]
    )


def pooled(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Win rate over the prompts of all seeds with its 95 % interval."""
    won, decided = (np.concatenate(parts) for parts in zip(*(outcomes(row) for row in rows), strict=True))
    return float(won.sum() / decided.sum()), *ratio_interval(won, decided)


def percent(rate: float, low: float, high: float) -> str:
    return f"{rate:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    reports = [json.loads((folder / "results.json").read_text()) for folder in options.reports]
    names = [folder.name for folder in options.reports]
    print(f"| judge prefers | prompts | temperature | {' | '.join(names)} | pooled | KL | ended |")
    print("|" + "---|" * (len(names) + 6))
    picture = {}
    for rows in zip(*(report["comparisons"] for report in reports), strict=True):
        first, total = rows[0], pooled(list(rows))
        what = f"{first['policy']} to {first['against']}"
        each = " | ".join(percent(row["win_rate"], *row["ci95"]) for row in rows)
        kl = ", ".join("–" if row["kl"] is None else f"{row['kl']:.2f}" for row in rows)
        ended = ", ".join(f"{row['ended']:.1%}" for row in rows)
        print(
            f"| {what} | {first['split']} | {first['temperature']:g} | {each} | {percent(*total)} | {kl} | {ended} |"
        )
        if first["split"] == "test":
            picture[f"{what}, {'sampled' if first['temperature'] else 'greedy'}"] = total
    print(f"\n| held-out labels | {' | '.join(names)} |\n|" + "---|" * (len(names) + 1))
    for name in ("accuracy", "judge", "longer_answer"):
        print(f"| {name} | {' | '.join(percent(*report['reward_model'][name]) for report in reports)} |")
    print(
        f"| labelers_agree | {' | '.join(format(report['reward_model']['labelers_agree'], '.1%') for report in reports)} |"
    )
    seconds = [
        ", ".join(f"{stage} {value:g}" for stage, value in report["seconds"].items()) for report in reports
    ]
    print(f"| seconds | {' | '.join(seconds)} |")
    print(f"| peak memory, GiB | {' | '.join(str(report['peak_memory_gib']) for report in reports)} |")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.write_text(intervals("share of decided comparisons won, all seeds", picture))


if __name__ == "__main__":
    main()
