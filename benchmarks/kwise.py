"""Rankings whole, all pairs of a prompt in one batch element, against the same pairs shuffled apart.

python benchmarks/kwise.py --model MODEL --rankings FILE --fold 0    # and --fold 1, then
python benchmarks/kwise.py --pool fold-0.json fold-1.json

Two folds by conversation: a reward model of each kind learns from one and is asked for the pairs of the other, so that
every pair is held out once. Both start from MODEL and take the same number of optimizer steps of one epoch; the second
sees as many pairs a step as the first does on average. Seconds are the processor's.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.data import Ranking, read_rankings
from rlhf.evaluate import ranking_accuracy, ratio_interval
from rlhf.splits import place

PROMPTS_PER_BATCH = 8


@dataclass(frozen=True)
class Way:
    """One way of giving rankings to the trainer."""

    name: str
    rankings: list[Ranking]
    prompts_per_batch: int


def ways(rankings: list[Ranking]) -> list[Way]:
    pairs = [
        Ranking(ranking.prompt, (ranking.completions[better], ranking.completions[worse]), (0, 1))
        for ranking in rankings
        for better, worse in ranking.pairs()
    ]
    per_batch = round(PROMPTS_PER_BATCH * len(pairs) / len(rankings))
    return [Way("whole rankings", rankings, PROMPTS_PER_BATCH), Way("pairs apart", pairs, per_batch)]


def measure(way: Way, held_out: list[Ranking], model: str, folder: Path) -> dict[str, Any]:
    """Scores of the held-out completions by a reward model trained that way, and what training it took."""
    from rlhf.checkpoints import load_scalar
    from rlhf.rewards import score_completions
    from rlhf.store import Store, write_text
    from rlhf.tokenizer import load_tokenizer
    from stages import reward_model
    from stages.settings import RewardSettings

    data = folder / f"{way.name}.jsonl"
    write_text(data, "".join(json.dumps(asdict(ranking)) + "\n" for ranking in way.rankings))
    settings = RewardSettings(
        init=model, data=str(data), name=way.name.replace(" ", "-"), prompts_per_batch=way.prompts_per_batch, lr=2e-5,
        probe_l2=0.3, max_length=512, last_blocks=12, validation_fraction=0.0,
    )  # fmt: skip
    started = time.process_time()
    entry = reward_model.run(settings, Store(folder))
    seconds = time.process_time() - started
    rows = [(ranking.prompt, text) for ranking in held_out for text in ranking.completions]
    found = score_completions(load_scalar(entry.path), load_tokenizer(entry.path), rows, 16, max_length=512)
    scores = iter(found)
    return {
        "completions": sum(len(ranking.completions) for ranking in way.rankings),
        "seconds": seconds,
        "scores": [[next(scores) for _ in ranking.completions] for ranking in held_out],
    }


def report(folds: Sequence[dict[str, Any]]) -> None:
    """A table over all folds, and the difference of the two ways with its interval by prompt."""
    ranks = [[row] for fold in folds for row in fold["ranks"]]
    lengths = [row for fold in folds for row in fold["lengths"]]
    print(
        "| trained on | completions read | seconds | held-out pairs right | held-out loss |\n|---|---|---|---|---|"
    )
    right = []
    for name in folds[0]["ways"]:
        found = [fold["ways"][name] for fold in folds]
        scores = [row for each in found for row in each["scores"]]
        accuracy, low, high, pairs = ranking_accuracy(scores, ranks)
        right.append([_right(row, rank) for row, (rank,) in zip(scores, ranks, strict=True)])
        print(
            f"| {name} | {sum(each['completions'] for each in found)} | {sum(each['seconds'] for each in found):.0f} "
            f"| {accuracy:.1%} [{low:.1%}, {high:.1%}] of {pairs} | {_loss(scores, ranks):.3f} |"
        )
    accuracy, low, high, pairs = ranking_accuracy(lengths, ranks)
    print(f"| the longer answer | | | {accuracy:.1%} [{low:.1%}, {high:.1%}] of {pairs} | |")
    _difference(right, [len(_pairs(rank)) for (rank,) in ranks])


def _difference(right: Sequence[Sequence[float]], num_pairs: Sequence[int]) -> None:
    import numpy as np

    whole, apart = map(np.asarray, right)
    pairs = np.asarray(num_pairs, float)
    low, high = ratio_interval(whole - apart, pairs)
    print(f"whole less apart: {(whole - apart).sum() / pairs.sum():+.1%} [{low:+.1%}, {high:+.1%}]")


def _pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    return Ranking("", tuple("" for _ in ranks), tuple(ranks)).pairs()


def _right(scores: Sequence[float], ranks: Sequence[int]) -> float:
    return float(sum(scores[better] > scores[worse] for better, worse in _pairs(ranks)))


def _loss(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[Sequence[int]]]) -> float:
    """−log σ of the margin, mean over all pairs."""
    from torch import tensor
    from torch.nn.functional import logsigmoid

    margins = [
        row[better] - row[worse]
        for row, (rank,) in zip(scores, ranks, strict=True)
        for better, worse in _pairs(rank)
    ]
    return float(-logsigmoid(tensor(margins)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", help="a model's folder or hub id")
    parser.add_argument("--rankings", help="a file of rankings")
    parser.add_argument("--fold", type=int, default=0, choices=(0, 1), help="which half is held out")
    parser.add_argument("--pool", nargs="+", type=Path, help="results of both folds, to be put together")
    options = parser.parse_args()
    if options.pool:
        report([json.loads(path.read_text()) for path in options.pool])
        return
    rankings = [ranking for ranking in read_rankings(options.rankings) if ranking.pairs()]
    parts: list[list[Ranking]] = [[], []]
    for ranking in rankings:
        parts[place(ranking.prompt, "fold") < 0.5].append(ranking)
    held_out, training = parts[options.fold], parts[1 - options.fold]
    with tempfile.TemporaryDirectory() as folder:
        found = {way.name: measure(way, held_out, options.model, Path(folder)) for way in ways(training)}
    fold = {
        "ways": found,
        "ranks": [ranking.ranks for ranking in held_out],
        "lengths": [[float(len(text.split())) for text in ranking.completions] for ranking in held_out],
    }  # fmt: skip
    Path(f"fold-{options.fold}.json").write_text(json.dumps(fold))
    report([fold])


if __name__ == "__main__":
    main()
