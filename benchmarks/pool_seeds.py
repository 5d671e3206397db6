"""Pool the reports of several seeds of `rlhf quickstart` into the table and the picture of docs/results.md.

python benchmarks/pool_seeds.py store/reports/quickstart-* --picture docs/images/quickstart.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rlhf.intervals import effective_interval
from rlhf.measuring.plots import intervals
from stages.page import rate
from stages.report.tables import seconds_by_step


def pooled(rows: list[dict[str, Any]]) -> tuple[float, tuple[float, float], int]:
    """Win rate over the prompts of all seeds, its 95 % interval for these models on such prompts, decided pairs."""
    decided = sum(row["n"] - row["ties"] for row in rows)
    won = sum(round(row["win_rate"] * (row["n"] - row["ties"])) for row in rows)
    return won / decided, effective_interval(won / decided, decided), decided


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
        each = " | ".join(rate(row["win_rate"], row["ci95"], row["n"] - row["ties"]) for row in rows)
        kl = ", ".join("–" if row["kl"] is None else f"{row['kl']:.2f}" for row in rows)
        ended = ", ".join(f"{row['ended']:.1%}" for row in rows)
        print(
            f"| {what} | {first['split']} | {first['temperature']:g} | {each} | {rate(*total)} | {kl} | {ended} |"
        )
        if first["split"] == "test":
            picture[f"{what}, {'sampled' if first['temperature'] else 'greedy'}"] = (total[0], *total[1])
    print(f"\n| held-out labels | {' | '.join(names)} |\n|" + "---|" * (len(names) + 1))
    labels = [report["reward_models"]["reward"]["test"] for report in reports]
    for name in ("accuracy", "longer_answer"):
        found = (rate(row[name][0], row[name][1:], row["pairs"]) for row in labels)
        print(f"| {name} | {' | '.join(found)} |")
    judged = (
        rate(report["judge_on_labels"][0], report["judge_on_labels"][1:], row["pairs"])
        for report, row in zip(reports, labels, strict=True)
    )
    print(f"| judge | {' | '.join(judged)} |")
    print(f"| labelers_agree | {' | '.join(format(row['labelers_agree'], '.1%') for row in labels)} |")
    seconds = [
        ", ".join(f"{stage} {value:g}" for stage, value in seconds_by_step(report).items())
        for report in reports
    ]
    print(f"| seconds | {' | '.join(seconds)} |")
    print(f"| peak memory, GiB | {' | '.join(str(report['peak_memory_gib']) for report in reports)} |")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.write_text(intervals("share of decided comparisons won, all seeds", picture))


if __name__ == "__main__":
    main()
