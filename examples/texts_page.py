"""What the page of the texts makes of the runs."""


def learning_lines(kinds):
    """Lines by vocabulary: share of the training, bits per byte."""
    return {
        kind: (
            [step / made["curve"][-1][0] for step, _ in made["curve"]],
            [bits for _, bits in made["curve"]],
        )
        for kind, made in kinds.items()
    }


def vocabulary_rows(kinds):
    """A row for each vocabulary."""
    return [
        [kind, f"{made['vocabulary']:,}", f"{made['characters_per_token']:.2f}", f"{made['tokens']:,}",
         f"{made['passes']:.2f}", f"{made['bits_per_byte']:.3f}", f"{made['nats_per_character']:.3f}"]
        for kind, made in kinds.items()
    ]  # fmt: skip


def texts_answer(found):
    """Two sentences: the best vocabulary of each text at equal compute, and how far the model got."""
    best = {text: min(kinds, key=lambda kind: kinds[kind]["bits_per_byte"]) for text, kinds in found.items()}
    named = ", ".join(
        f"{text}: {kind} ({found[text][kind]['bits_per_byte']:.2f} bits a byte)"
        for text, kind in best.items()
    )
    tried = max(len(kinds) for kinds in found.values())
    compared = (
        f"best of {tried} vocabularies at equal compute" if tried > 1 else "the only vocabulary to be had"
    )
    return f"{compared[0].upper()}{compared[1:]}: {named}. The samples show how far so little reading leads."
