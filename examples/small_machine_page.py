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
    """Two sentences: what saves most in training and in answering, and what it costs."""
    parts = []
    for kind, verb in (("training", "Training"), ("answering", "answering")):
        ways = [way for way in found[kind] if "seconds" in way]
        first, least = ways[0], min(ways, key=lambda way: way["peak_mib"])
        parts.append(
            f"{verb} falls from {first['peak_mib']:.0f} to {least['peak_mib']:.0f} MiB by “{least['way']}”, "
            f"at {least['seconds'] / first['seconds']:.1f} times the seconds"
        )
    return f"{parts[0]}; {parts[1]}. The checkpoint itself has {found['checkpoint_mib']:.0f} MiB."
