"""Loss as a law in weights N and tokens D: L = E + A / N^α + B / D^β (Hoffmann et al. 2022, approach 3), with bootstrap."""

import math
from dataclasses import dataclass
from typing import Any

import torch

HUBER = 1e-3
EXPONENTS = (0.2, 0.6)  # where descents start


@dataclass(frozen=True)
class Law:
    """E, A, α, B, β of the law."""

    floor: float
    size_factor: float
    size_exponent: float
    data_factor: float
    data_exponent: float

    def loss(self, weights, tokens):
        """What a model of that many weights reaches after that many tokens."""
        return (
            self.floor
            + self.size_factor / weights**self.size_exponent
            + self.data_factor / tokens**self.data_exponent
        )

    def best_size(self, compute):
        """The number of weights with the lowest loss for 6 · weights · tokens = compute; equation 4 of the paper."""
        ratio = self.size_exponent * self.size_factor / (self.data_exponent * self.data_factor)
        power = 1 / (self.size_exponent + self.data_exponent)
        return ratio**power * (compute / 6) ** (self.data_exponent * power)


def fit(runs, near=None):
    """The law nearest to runs (weights, tokens, loss): Huber loss of log L, L-BFGS from several starts, or from a law.

    Raises ValueError for fewer runs than the law has numbers.
    """
    if len(runs) < 5:
        raise ValueError(f"{len(runs)} runs for a law of 5 numbers")
    points = torch.tensor(runs, dtype=torch.float64).log()
    middle = points.mean(
        0
    ).tolist()  # sizes and tokens are measured from there: the five numbers are less entangled
    lowest = float(points[:, 2].min())
    starts = [[lowest - 0.7, lowest - 1.5, a, lowest - 1.5, b] for a in EXPONENTS for b in EXPONENTS]
    if near:
        starts = [
            [
                math.log(near.floor),
                math.log(near.size_factor) - near.size_exponent * middle[0],
                near.size_exponent,
                math.log(near.data_factor) - near.data_exponent * middle[1],
                near.data_exponent,
            ]
        ]
    found = [_descend(points - points.new_tensor([*middle[:2], 0.0]), start) for start in starts]
    _, (log_floor, log_a, alpha, log_b, beta) = min(found)
    return Law(
        math.exp(log_floor),
        math.exp(log_a + alpha * middle[0]),
        alpha,
        math.exp(log_b + beta * middle[1]),
        beta,
    )


def _descend(points, start):
    """The end of one descent: its Huber loss and log E, log A, α, log B, β; points (R, 3), logarithms."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)
    signs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def distance():
        optimizer.zero_grad()
        powers = points[:, :2] * torch.stack((x[2], x[4]))  # (R, 2)
        law = (x[[0, 1, 3]] - powers @ signs.T).logsumexp(1)
        value = torch.nn.functional.huber_loss(law, points[:, 2], delta=HUBER) / HUBER**2
        value.backward()
        return value

    optimizer.step(distance)
    value = float(distance().detach())
    return (value if math.isfinite(value) else math.inf), x.detach().tolist()


def bootstrap(runs, num_samples, seed=0):
    """Laws of runs drawn with replacement, those without five different runs left out."""
    generator, whole = torch.Generator().manual_seed(seed), fit(runs)
    laws: list[Any] = []
    while len(laws) < num_samples:
        places = torch.randint(0, len(runs), (len(runs),), generator=generator).tolist()
        if len(set(places)) >= 5:
            laws.append(fit([runs[place] for place in places], near=whole))
    return laws


def middle_95(values):
    """2.5 % and 97.5 % points."""
    return [float(torch.tensor(values, dtype=torch.float64).quantile(share)) for share in (0.025, 0.975)]
