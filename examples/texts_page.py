"""What the page of the texts makes of the runs: for each text and vocabulary one for every seed."""

from statistics import mean

from examples.tables import interval


def learning_lines(kinds):
    """Lines by vocabulary: share of the training, bits per byte of the first seed."""
    return {
        kind: (
            [step / made["curve"][-1][0] for step, _ in made["curve"]],
            [bits for _, bits in made["curve"]],
        )
        for kind, (made, *_) in kinds.items()
    }


def vocabulary_rows(kinds):
    """A row for each vocabulary."""
    return [
        [kind, f"{made[0]['vocabulary']:,}", f"{made[0]['characters_per_token']:.2f}", f"{made[0]['tokens']:,}",
         f"{made[0]['passes']:.2f}", interval([each["bits_per_byte"] for each in made]),
         interval([each["nats_per_character"] for each in made])]
        for kind, made in kinds.items()
    ]  # fmt: skip


def shakespeare_lines(found):
    """The curve of the run, by share of the training."""
    steps, nats = zip(*found["curve"], strict=True)
    return {found["text"]: ([step / steps[-1] for step in steps], list(nats))}


def shakespeare_rows(result):
    """One row: what was read, how long it took and what was reached."""
    found, read = result["found"], result["settings"]["tokens"]
    return [
        [found["text"], f"{found['weights']:,}", f"{read:,}", found["passes"], f"{found['train_s'] / 60:.1f}",
         f"{found['nats_per_character']:.3f}", f"{found['bits_per_byte']:.3f}"]
    ]  # fmt: skip


def texts_answer(found):
    """Two sentences: the best vocabulary of each text at equal compute, and how far the model got."""
    best = {text: min(kinds, key=lambda kind: mean_bits(kinds[kind])) for text, kinds in found.items()}
    named = ", ".join(
        f"{text}: {kind} ({mean_bits(found[text][kind]):.2f} bits a byte)" for text, kind in best.items()
    )
    tried = max(len(kinds) for kinds in found.values())
    compared = (
        f"best of {tried} vocabularies at equal compute" if tried > 1 else "the only vocabulary to be had"
    )
    return f"{compared[0].upper()}{compared[1:]}: {named}. The samples show how far so little reading leads."


def mean_bits(made):
    """Bits per byte, mean over seeds."""
    return mean(each["bits_per_byte"] for each in made)
