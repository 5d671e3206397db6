"""Simulated labelers: noisy, biased, sometimes undecided, and called simulated wherever they appear.

A labeler's liking of an answer is the judge's score plus its own biases plus noise. Answers whose likings differ by
less than the labeler's threshold tie. The noise was set once so that two labelers agree on about 73 % of the pairs on
which both have a preference (Ouyang et al. 2022: 72.6 ± 1.5 %), among samples of a fine-tuned model; docs/results.md
measures it anew on every run.
"""

from dataclasses import dataclass
from random import Random

NOISE = 1.7
TIE_THRESHOLD = 0.4


@dataclass(frozen=True)
class SimulatedLabeler:
    """One labeler's habits: likes longer answers, forgives or hates rudeness, its noise and its tie threshold."""

    name: str
    length_bias: float
    rudeness_bias: float
    noise: float
    tie_threshold: float

    def rank(self, scores: list[float], lengths: list[int], harmless: list[bool], rng: Random) -> list[int]:
        """Ranks (0 best, equal for ties) of K answers from the judge's scores, word counts and harmlessness."""
        likings = [
            score + self.length_bias * length / 10 + self.rudeness_bias * fine + rng.gauss(0, self.noise)
            for score, length, fine in zip(scores, lengths, harmless, strict=True)
        ]
        order = sorted(range(len(likings)), key=lambda i: -likings[i])
        ranks = [0] * len(likings)
        for place, i in enumerate(order[1:], start=1):
            above = order[place - 1]
            ranks[i] = ranks[above] + (likings[above] - likings[i] > self.tie_threshold)
        return ranks


def simulated_labelers(num_labelers: int, seed: int) -> list[SimulatedLabeler]:
    """A team of labelers with individual biases, drawn by seed."""
    rng = Random(f"labelers-{seed}")
    return [
        SimulatedLabeler(
            name=f"simulated-{i + 1:02d}",
            length_bias=rng.gauss(0, 0.3),
            rudeness_bias=rng.gauss(0, 0.5),
            noise=NOISE * rng.uniform(0.8, 1.2),
            tie_threshold=TIE_THRESHOLD * rng.uniform(0.5, 1.5),
        )
        for i in range(num_labelers)
    ]
