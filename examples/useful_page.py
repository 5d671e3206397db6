"""What the page about usefulness makes of reports."""

from rlhf.data import as_messages


def comparison_rows(report):
    """A row for each comparison: who, against whom, on what, how often preferred."""
    return [
        [f"{row['policy']} over {row['against']}", row["split"] or "", "greedy" if row["temperature"] == 0 else f"temperature {row['temperature']:g}",
         f"{row['win_rate']:.0%}", "{:.0%} to {:.0%}".format(*row["ci95"]), row["n"]]
        for row in report["comparisons"] if row["temperature"] is not None
    ]  # fmt: skip


def win_rates(report):
    """Share and interval by name of the comparisons at temperature 1 on test prompts, for a picture."""
    return {
        f"{row['policy']} over {row['against']}": (row["win_rate"], *row["ci95"])
        for row in report["comparisons"]
        if row["temperature"] == 1 and row["split"] in ("test", None)
    }


def answer_rows(report):
    """A row for each question and model: what it said, on one line."""
    return [
        [on_one_line(as_messages(row["prompt"])[-1]["content"]), name, on_one_line(row[name]["text"])[:160] or "(nothing)"]
        for row in report["examples"] for name in ("base", "sft", "ppo") if name in row
    ]  # fmt: skip


def on_one_line(text):
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def useful_answer(report):
    """Two sentences: who is preferred by how much, and what each step cost."""
    preferred = ", ".join(f"{name} in {rate[0]:.0%}" for name, rate in win_rates(report).items())
    minutes = {name: step["seconds"] / 60 for name, step in report["cost"].items()}
    costly = max(minutes, key=lambda name: minutes[name])
    return (
        f"Of pairs of answers the judge prefers {preferred}. All steps took {sum(minutes.values()):.1f} minutes, "
        f"most of them {costly} ({minutes[costly]:.1f})."
    )


def cost_rows(report):
    """A row for each step: seconds, and memory where it was measured."""
    return [
        [name, f"{step['seconds']:.0f}", "" if step["gib"] is None else f"{step['gib']:.2f}"]
        for name, step in report["cost"].items()
    ]
