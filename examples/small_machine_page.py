"""What the page about small machines makes of the measurements."""


def way_rows(ways):
    """A row for each way: memory and seconds, or why it cannot."""
    return [
        [way["way"], f"{way['peak_mib']:.0f}", f"{way['seconds']:.2f}"]
        if "seconds" in way
        else [way["way"], "–", way["failed"].replace("|", "\\|")]
        for way in ways
    ]


def memory(ways):
    """MiB by way, of those that ran."""
    return {way["way"]: way["peak_mib"] for way in ways if "seconds" in way}


def small_answer(found):
    """Two sentences: what saves most in training and in answering of the first model, and what it costs."""
    name, ways = next(iter(found.items()))
    training, answering = (least_memory(ways[kind]) for kind in ("training", "answering"))
    return (
        f"For {name}, a step of training falls from {training}, and an answer from {answering}. "
        f"The checkpoint itself has {ways['checkpoint_mib']:.0f} MiB."
    )


def least_memory(ways):
    """From how much to how little memory, by what, at how many times the seconds."""
    ran = [way for way in ways if "seconds" in way]
    first, least = ran[0], min(ran, key=lambda way: way["peak_mib"])
    return (
        f"{first['peak_mib']:.0f} to {least['peak_mib']:.0f} MiB by “{least['way']}” "
        f"({least['seconds'] / first['seconds']:.1f} times the seconds)"
    )
