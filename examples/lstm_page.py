"""What the page of GPT and LSTM makes of the runs."""

from statistics import mean

from examples.tables import interval, overlap


def kinds_of(runs):
    """The models' names."""
    return list(runs)


def run_rows(runs):
    """A row for each kind: weights, tokens, seconds, and bits per byte over the seeds."""
    return [
        [kind, f"{made[0]['weights']:,}", f"{made[0]['tokens']:,}", f"{mean(each['cpu_s'] for each in made):.0f}",
         interval([each["bits_per_byte"] for each in made])]
        for kind, made in runs.items()
    ]  # fmt: skip


def means(rows):
    """Mean over seeds at each place of their rows."""
    return [mean(values) for values in zip(*rows, strict=True)]


def by_tokens(runs):
    """Lines by kind: tokens read, bits per byte, mean over seeds."""
    lines = {}
    for kind, made in runs.items():
        steps = [step for step, _ in made[0]["curve"]]
        read = [step * made[0]["tokens"] / steps[-1] for step in steps]
        lines[kind] = (read, means([bits for _, bits in each["curve"]] for each in made))
    return lines


def means_by_context(made):
    """Mean over seeds of each group of places."""
    return means(each["by_context"] for each in made)


def by_context(runs, context):
    """Lines by kind: context in tokens, bits per byte."""
    return {kind: (context, means_by_context(made)) for kind, made in runs.items()}


def context_rows(runs, context):
    """A row for each group of places: its first and last number of tokens seen before, then each kind."""
    columns = [means_by_context(made) for made in runs.values()]
    starts = [0, *context[:-1]]
    names = [
        f"{low} to {high - 1}" if high - 1 > low else f"{low}"
        for low, high in zip(starts, context, strict=True)
    ]
    return [[name, *(f"{value:.3f}" for value in row)] for name, *row in zip(names, *columns, strict=True)]


def stops_gaining(made, context, least=0.01):
    """The context behind which no group is better than all before it by `least` bits a byte, in the mean."""
    means = means_by_context(made)
    best = 0
    for place, value in enumerate(means):
        if value <= means[best] - least:
            best = place
    return context[best]


def lstm_answer(tokens, timed, context):
    """Two sentences: how the GPT stands at equal tokens and at equal time, and up to which context each model still gains."""
    gains = ", ".join(f"{kind} up to {stops_gaining(made, context)} tokens" for kind, made in tokens.items())
    return (
        f"At equal tokens the GPT is {beside_gpt(tokens)}; at equal time {beside_gpt(timed)} (bits a byte). "
        f"More context still gains a hundredth of a bit a byte for {gains} (of {context[-1]})."
    )


def beside_gpt(runs):
    """How far the GPT, the first, is ahead of each other model or behind it, and where the seeds do not tell them apart."""
    gpt, *others = ([each["bits_per_byte"] for each in made] for made in runs.values())
    says = []
    for kind, other in zip(kinds_of(runs)[1:], others, strict=True):
        gap = mean(other) - mean(gpt)
        side = "ahead of" if gap > 0 else "behind"
        unsure = ", less than the seeds tell apart" if overlap(gpt, other) else ""
        says.append(f"{abs(gap):.3f} {side} the {kind}{unsure}")
    return " and ".join(says)
