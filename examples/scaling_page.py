"""What the page of the scaling law makes of the runs."""

from examples.scaling_law import Law

NAMES = {
    "floor": "E",
    "size_factor": "A",
    "size_exponent": "α",
    "data_factor": "B",
    "data_exponent": "β",
}


def losses_of(runs):
    """Held-out losses."""
    return [run["loss"] for run in runs]


def scaling_lines(found):
    """Lines by size: tokens and losses, in the order of the runs, the largest run as a line of one point."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for run in [*found["runs"], *found["largest"]]:
        x, y = lines.setdefault(run["size"], ([], []))
        x.append(run["tokens"])
        y.append(run["loss"])
    return lines


def scaling_rows(found):
    """A row for each run, with what the law says of it."""
    law = Law(**found["law"])
    return [
        [run["size"], f"{run['weights']:,}", f"{run['tokens']:,}", f"{run['loss']:.3f}",
         f"{law.loss(run['weights'], run['tokens']):.3f}"]
        for run in found["runs"]
    ]  # fmt: skip


def law_rows(found):
    """A row for each number of the law, with its interval."""
    return [
        [NAMES[key], f"{value:.3g}", "{:.3g} to {:.3g}".format(*found["intervals"][key])]
        for key, value in found["law"].items()
    ]


def scaling_answer(found):
    """Two sentences: whether the prediction held, and what size its compute would best have gone to."""
    value, (low, high) = found["predicted"]
    reached = sum(losses_of(found["largest"])) / len(found["largest"])
    run = found["largest"][0]
    held = "inside" if low <= reached <= high else "outside"
    return (
        f"The law predicted {value:.3f} nats a token for the largest run and it reached {reached:.3f}, {held} the bootstrap "
        f"interval of {low:.3f} to {high:.3f}. By the law the same compute would best go to {found['best_size']:,.0f} weights "
        f"rather than {run['weights']:,}."
    )
