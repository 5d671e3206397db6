"""Rankings whole, all pairs of a prompt in one batch element, against the same pairs shuffled apart.

python benchmarks/kwise.py --model MODEL --rankings FILE --fold 0 --way whole    # and apart, and fold 1; then
python benchmarks/kwise.py --pool whole-0.json apart-0.json

Two folds by conversation: a reward model learns from one and is asked for the pairs of the other. Both ways start from
MODEL and take the same number of optimizer steps in one epoch; pairs apart come as many to a step as there are on
average in one of whole rankings. Seconds are the processor's.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.data import Ranking, read_rankings
from rlhf.measuring.evaluate import ranking_accuracy
from rlhf.splits import split_point

PROMPTS_PER_BATCH = 8
WAYS = ("whole", "apart")


def apart(rankings: list[Ranking]) -> list[Ranking]:
    """A ranking of two for every pair."""
    return [
        Ranking(
            prompt=ranking.prompt,
            completions=(ranking.completions[better], ranking.completions[worse]),
            ranks=(0, 1),
        )
        for ranking in rankings
        for better, worse in ranking.pairs()
    ]


def measure(way: str, training: list[Ranking], held_out: list[Ranking], model: str) -> dict[str, Any]:
    """Scores of the held-out completions by a reward model trained that way, and what training it took."""
    from rlhf.learning.rewards import score_completions
    from rlhf.models.checkpoints import load_scalar
    from rlhf.models.tokenizer import load_tokenizer
    from rlhf.store import Store, write_text
    from stages import reward
    from stages.settings import RewardSettings

    rankings = training if way == "whole" else apart(training)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rankings.jsonl"
        write_text(data, "".join(json.dumps(asdict(ranking)) + "\n" for ranking in rankings))
        settings = RewardSettings(
            init=model, data=str(data), name=way, lr=2e-5, probe_l2=0.3, max_length=512, last_blocks=12,
            prompts_per_batch=round(PROMPTS_PER_BATCH * len(rankings) / len(training)), validation_fraction=0.0,
        )  # fmt: skip
        started = time.process_time()
        entry = reward.run(settings, Store(folder))
        seconds = time.process_time() - started
        rows = [(ranking.prompt, text) for ranking in held_out for text in ranking.completions]
        found = score_completions(
            load_scalar(entry.path), load_tokenizer(entry.path), rows, 16, max_length=512
        )
    scores = iter(found)
    return {
        "way": way,
        "completions": sum(len(ranking.completions) for ranking in rankings),
        "seconds": seconds,
        "scores": [[next(scores) for _ in ranking.completions] for ranking in held_out],
        "ranks": [ranking.ranks for ranking in held_out],
        "lengths": [[float(len(text.split())) for text in ranking.completions] for ranking in held_out],
    }


def report(results: Sequence[dict[str, Any]]) -> None:
    """A table by way over all folds, and the difference of the two with its interval by prompt."""
    print(
        "| trained on | completions read | seconds | held-out pairs right | held-out loss |\n|---|---|---|---|---|"
    )
    right = {}
    for way in WAYS:
        found = [each for each in results if each["way"] == way]
        scores, ranks, lengths = (
            [row for each in found for row in each[key]] for key in ("scores", "ranks", "lengths")
        )
        right[way] = [_right(*row) for row in zip(scores, ranks, strict=True)]
        print(
            f"| {way} | {sum(each['completions'] for each in found)} | {sum(each['seconds'] for each in found):.0f} "
            f"| {_accuracy(scores, ranks)} | {_loss(scores, ranks):.3f} |"
        )
    print(f"| the longer answer | | | {_accuracy(lengths, ranks)} | |")
    _difference([right[way] for way in WAYS], [len(_pairs(rank)) for rank in ranks])


def _accuracy(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> str:
    accuracy, low, high, pairs = ranking_accuracy(scores, [[rank] for rank in ranks])
    return f"{accuracy:.1%} [{low:.1%}, {high:.1%}] of {pairs}"


def _difference(right: Sequence[Sequence[float]], num_pairs: Sequence[int]) -> None:
    import numpy as np

    whole, apart = map(np.asarray, right)
    pairs = np.asarray(num_pairs, float)
    drawn = np.random.default_rng(0).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), 2000)
    low, high = np.quantile(drawn @ (whole - apart) / (drawn @ pairs), [0.025, 0.975])
    print(f"whole less apart: {(whole - apart).sum() / pairs.sum():+.1%} [{low:+.1%}, {high:+.1%}]")


def _pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    return Ranking(prompt="", completions=("",) * len(ranks), ranks=tuple(ranks)).pairs()


def _right(scores: Sequence[float], ranks: Sequence[int]) -> float:
    return float(sum(scores[better] > scores[worse] for better, worse in _pairs(ranks)))


def _loss(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> float:
    """−log σ of the margin, mean over all pairs."""
    from torch import tensor
    from torch.nn.functional import logsigmoid

    pairs = [(row, pair) for row, rank in zip(scores, ranks, strict=True) for pair in _pairs(rank)]
    return float(-logsigmoid(tensor([row[better] - row[worse] for row, (better, worse) in pairs])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="whole rankings against pairs apart")
    parser.add_argument("--model", help="a model's folder or hub id")
    parser.add_argument("--rankings", help="a file of rankings")
    parser.add_argument("--fold", type=int, default=0, choices=(0, 1), help="which half is held out")
    parser.add_argument("--way", default="whole", choices=WAYS)
    parser.add_argument("--pool", nargs="+", type=Path, help="results of both ways, to be put together")
    options = parser.parse_args()
    if options.pool:
        report([json.loads(path.read_text()) for path in options.pool])
        return
    parts: list[list[Ranking]] = [[], []]
    for ranking in read_rankings(options.rankings):
        if ranking.pairs():
            parts[split_point(ranking.prompt, "fold") < 0.5].append(ranking)
    found = measure(options.way, parts[1 - options.fold], parts[options.fold], options.model)
    Path(f"{options.way}-{options.fold}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
