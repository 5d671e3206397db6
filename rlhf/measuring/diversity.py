"""How much answers differ from each other and within themselves. Imports no torch."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Different word pairs per word pair of all texts together (distinct-2 of Li et al. 2016); 0 without one.

    It falls with the number and length of texts: compare answers to the same prompts.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def repetition(texts: Sequence[str]) -> float:
    """Share of three-word runs that came before in the same text, mean over the texts that have one; 0 without."""
    shares = []
    for text in texts:
        words = text.split()
        runs = list(zip(words, words[1:], words[2:], strict=False))
        if runs:
            shares.append(1 - len(set(runs)) / len(runs))
    return sum(shares) / len(shares) if shares else 0.0


def share_alike(texts: Sequence[str]) -> float:
    """Share of the texts that another one equals: a policy that says the same to everybody."""
    return sum(is_alike(texts)) / len(texts) if texts else 0.0


def is_alike(texts: Sequence[str]) -> list[bool]:
    """Of each text whether another one equals it."""
    counts = Counter(texts)
    return [counts[text] > 1 for text in texts]
