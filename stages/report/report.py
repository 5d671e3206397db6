"""One HTML file of what was measured: it asks nothing of any server, and no text in it is read as markup."""

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf.durable import write_text
from rlhf.errors import InputError, first_line
from rlhf.store import Store
from stages.page import page, table
from stages.report import tables
from stages.report.findings import findings
from stages.report.pictures import (
    calibration_picture,
    frontier_pictures,
    strength_picture,
    training_pictures,
    win_picture,
)
from stages.report.side_by_side import side_by_side

Results = Mapping[str, Any]
NEEDED = ("prompts", "judge", "temperature", "policies", "comparisons", "curve", "best_of", "examples")
AGAIN = "the command that made the report makes it again"


def write_report(folder: Path, title: str, results: Results, say: Callable[[str], None]) -> Path:
    """Write results.json and report.html into `folder`, and say what they say."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
    write_text(folder / "report.html", html_page(title, results))
    for line in report_lines(results):
        say(line)
    say(f"report: {folder / 'report.html'}")
    return folder / "report.html"


def render(store: Store, name: str, say: Callable[[str], None]) -> Path:
    """Make report.html anew from the results kept under a name. Raises InputError where there are none, or damaged ones."""
    reports = store.root / "reports"
    if not (reports / name / "results.json").is_file():
        known = ", ".join(sorted(path.parent.name for path in reports.glob("*/results.json")))
        raise InputError(f"no report named {name}; there are: {known or 'none'}")
    return write_report(reports / name, name, _read_results(reports / name / "results.json"), say)


def _read_results(file: Path) -> Results:
    """The results in a file. Raises InputError where they are not what a report is made of."""
    try:
        results = json.loads(file.read_text())
    except ValueError as problem:
        raise InputError(f"{file}: damaged ({first_line(problem)}); {AGAIN}") from None
    missing = [key for key in NEEDED if not isinstance(results, dict) or key not in results]
    if missing or not results["policies"]:
        raise InputError(
            f"{file}: not the results of a report ({', '.join(missing) or 'a policy'}: not in it); {AGAIN}"
        )
    return results


def report_lines(results: Results) -> list[str]:
    """Findings and tables as lines of text."""
    lines = [*findings(results), ""]
    for rows in (
        tables.step_rows(results),
        tables.comparison_rows(results),
        tables.policy_rows(results),
        tables.accuracy_rows(results),
    ):
        if tables.has_rows(rows):
            lines += [*tables.align_columns(rows), ""]
    return lines


def html_page(title: str, results: Results) -> str:
    """The report as one page without anything to load from elsewhere."""
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in findings(results))
    judged_by = (
        f"Judge: {results['judge']}; {results['prompts']:,} prompts; temperature {results['temperature']:g}."
    )
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class=note>{html.escape(' '.join([results.get('note', ''), judged_by, 'Intervals are 95 %, by conversation.']))}</p>",
        f"<h2>Findings</h2><ul>{said}</ul>" if said else "",
        *_wins(results),
        *_frontier(results),
        f"<h2>The answers</h2>{table(tables.policy_rows(results))}",
        *_reward_models(results),
        *_steps(results),
        f"<h2>Answers side by side</h2><p class=note>The first {len(results['examples'])} prompts, not chosen for what was "
        f"answered; the judge's score beside each name.</p>{side_by_side(results)}",
    ]
    return page(title, body)


def _wins(results: Results) -> list[str]:
    if not results["comparisons"]:
        return []
    strengths = strength_picture(results) if results.get("strengths") else ""
    return [
        f"<h2>Who wins</h2>{table(tables.matrix_rows(results))}<div class=curves>{win_picture(results)}{strengths}</div>",
        f"<details><summary>Every comparison</summary>{table(tables.comparison_rows(results))}</details>",
    ]


def _frontier(results: Results) -> list[str]:
    pictures = frontier_pictures(results)
    return [f"<h2>How far is too far</h2><div class=curves>{''.join(pictures)}</div>"] if pictures else []


def _reward_models(results: Results) -> list[str]:
    rows = tables.accuracy_rows(results)
    if not tables.has_rows(rows):
        return []
    parts = [f"<h2>The reward models on held-out pairs</h2>{table(rows)}"]
    for name, by_part in results["reward_models"].items():
        for part, found in by_part.items():
            inner = f"<div class=curves>{calibration_picture(found)}</div>{table(tables.split_rows(found))}"
            inner += table(tables.calibration_rows(found)) + _mistakes(found)
            parts.append(f"<details><summary>{html.escape(f'{name}, {part}')}</summary>{inner}</details>")
    return parts


def _mistakes(found: Mapping[str, Any]) -> str:
    from rlhf.data import as_messages

    rows = [["chance", "prompt", "people preferred", "the model preferred"]]
    for row in found["sure_and_wrong"]:
        asked = "\n".join(turn["content"] for turn in as_messages(row["prompt"]))
        rows.append([f"{row['chance']:.1%}", asked, row["people"], row["model"]])
    return f"<h3>Most sure and wrong</h3><div class=mistakes>{table(rows)}</div>" if len(rows) > 1 else ""


def _steps(results: Results) -> list[str]:
    rows, pictures = tables.step_rows(results), training_pictures(results)
    if not tables.has_rows(rows):
        return []
    return [f"<h2>Steps</h2>{table(rows)}<div class=curves>{''.join(pictures)}</div>"]
