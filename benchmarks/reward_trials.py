"""Trials of a reward model on people's rankings, by validation conversations alone; the table is for docs/lab-log.md.

python -m benchmarks.reward_trials MODEL --recipe gemma-files --data FOLDER --work FOLDER          # heads on frozen states
python -m benchmarks.reward_trials MODEL --recipe gemma-files --data FOLDER --work FOLDER --tuned  # the stage itself

A frozen model's states of every answer are taken once; a head on them is then fitted in seconds, so that all of what
changes the loss or the rows is tried on equal terms. `--tuned` trains whole reward models through `rlhf reward`. Each
trial is one line of FOLDER/trials.jsonl; a command that was stopped goes on with what is not there yet. Test
conversations are put aside before anything is read, by the recipe's own division, and no line is made of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.data import Ranking
from rlhf.measuring.ranked_pairs import (
    RankedPair,
    accuracy,
    beside_length,
    calibration,
    grouped,
    ranked_pairs,
)
from rlhf.splits import interleaved
from stages.align.data import Division, read_sources
from stages.cli.options import read_recipe
from stages.reward.data import RankedPrompt
from stages.settings import AlignDataSettings, RewardSettings
from stages.steps import settings_of

VALIDATION_SHARE = (
    0.25  # of the conversations: ten times the recipe's, for intervals that can tell trials apart
)
CHUNK, BATCH = 32, 16  # rankings in a file of states; answers at once
DEPTHS = (0.5, 0.75, 1.0)
READ_AT = ("last", "mean")
L2 = 0.3  # as recipes/smollm2.toml's probe_l2
SEEDS = 8
UNSURE = 0.35  # of a ranking's pairs, by a model that has not seen it: less is held for a slip of the labeler


@dataclass(frozen=True)
class Part:
    """Rankings of one part with their source, and for each the states (K, D · R, C) of its answers."""

    rankings: list[Ranking]
    sources: list[str]
    states: list[Tensor]


@dataclass(frozen=True)
class Pairs:
    """Every preference of a part as one row: features (N, C) of the better less the worse answer; weight, margin,
    log-length difference (N,); ranking: which one it is of."""

    features: Tensor
    weight: Tensor
    margin: Tensor
    length: Tensor
    ranking: Tensor


@dataclass(frozen=True)
class Trial:
    """One head. columns: which (depth, place) of the states it reads. rows: which pairs it is fitted on."""

    name: str
    columns: tuple[tuple[float, str], ...] = ((1.0, "last"),)
    l2: float = L2
    smoothing: float = 0.0
    margin: float = 0.0
    length: str = ""  # "feature": the head may read it; "nuisance": fitted beside the head, then dropped
    rows: Callable[[Pairs, Part], Tensor] = field(default=lambda pairs, part: pairs.weight)
    seeds: int = 0  # heads on rankings drawn with replacement, averaged; 0: one on all


def divided(recipe: str, data: Path, num_rankings: int) -> dict[str, list[tuple[str, Ranking]]]:
    """Rankings to learn from, and half as many to validate on, with their source, in whole files of states.

    A larger number begins with what a smaller one has.
    """
    settings = settings_of(AlignDataSettings, read_recipe(recipe), "data", gold_share=0.0)
    settings = replace(settings, validation_share=VALIDATION_SHARE)
    sources = read_sources(settings, data, print)
    division = Division(settings, sources)

    def part(name: str) -> list[tuple[str, Ranking]]:
        each = [
            [(source, row) for row in division.rows(rows, name)] for source, rows in sources.rankings.items()
        ]
        return interleaved(each, (num_rankings if name == "rest" else num_rankings // 2) // CHUNK * CHUNK)

    return {name: part(name) for name in ("validation", "rest")}


@torch.no_grad()
def states_of(model: Any, rows: list[list[int]], lengths: list[int]) -> Tensor:
    """States (R, D · 2, C) float16 of rows of tokens: at each depth the last token's, and the mean over the answer's.

    lengths: tokens of each row's answer.
    """
    from rlhf.machine.devices import autocast
    from rlhf.models.padding import batches_by_length, pad_tokens

    found: list[Any] = [None] * len(rows)
    for places in batches_by_length([len(row) for row in rows], BATCH):
        tokens = pad_tokens([rows[i] for i in places], 0, round_to=8)[0]
        with autocast(model.device):
            hidden = model.base_model(
                input_ids=tokens, use_cache=False, output_hidden_states=True
            ).hidden_states
        chosen = [hidden[round(depth * (len(hidden) - 1))].float() for depth in DEPTHS]
        for row, place in enumerate(places):
            end, begin = len(rows[place]), len(rows[place]) - lengths[place]
            kept = [state for h in chosen for state in (h[row, end - 1], h[row, begin:end].mean(0))]
            found[place] = torch.stack(kept).half()
    return torch.stack(found)


def read_part(
    model: Any, tokenizer: Any, rows: list[tuple[str, Ranking]], max_length: int, folder: Path
) -> Part:
    """A part with its states, which are kept in files of CHUNK rankings."""
    from stages.reward.tokens import encode_completions

    folder.mkdir(parents=True, exist_ok=True)
    states: list[Tensor] = []
    for begin in range(0, len(rows), CHUNK):
        file, started = folder / f"{begin:06d}.pt", time.monotonic()
        chunk = [row for _, row in rows[begin : begin + CHUNK]]
        if not file.exists():
            tokens, lengths = [], []
            for row in chunk:
                given, _ = encode_completions(
                    RankedPrompt(row.prompt, row.completions, ()), tokenizer, max_length
                )
                tokens += given
                lengths += [min(len(t), len(tokenizer.encode_completion(c, row.prompt))) for t, c in zip(given, row.completions, strict=True)]  # fmt: skip
            torch.save(states_of(model(), tokens, lengths), file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
            print(f"states: {begin + len(chunk)} of {len(rows)} rankings, {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
        states += torch.load(file).split([len(row.completions) for row in chunk])
    return Part([row for _, row in rows], [source for source, _ in rows], states)


def pairs_of(part: Part, columns: Sequence[tuple[float, str]]) -> Pairs:
    """All preferences of a part; the pairs of a ranking weigh one together (Ouyang et al. 2022, eq. 1)."""
    at = [DEPTHS.index(depth) * len(READ_AT) + READ_AT.index(where) for depth, where in columns]
    rows: list[tuple[Tensor, float, float, float, int]] = []
    for number, (ranking, states) in enumerate(zip(part.rankings, part.states, strict=True)):
        known = states[:, at].float().flatten(1)
        lengths = [log_length(text) for text in ranking.completions]
        preferred = ranking.pairs()
        for better, worse in preferred:
            margin = (ranking.ranks[worse] - ranking.ranks[better]) / max(1, max(ranking.ranks))
            rows.append((known[better] - known[worse], 1 / len(preferred), margin, lengths[better] - lengths[worse], number))  # fmt: skip
    features, *others = zip(*rows, strict=True)
    return Pairs(torch.stack(features), *map(torch.tensor, others))


def log_length(text: str) -> float:
    return float(torch.tensor(1.0 + len(text.split())).log())


def fit(pairs: Pairs, weight: Tensor, trial: Trial) -> tuple[Tensor, float]:
    """The head (C,) and the coefficient of log-length that explain the pairs best, weighted; see `ranking_probe`."""
    total = weight.sum()
    spread = ((weight[:, None] * pairs.features.square()).sum(0) / total).sqrt().clamp(min=1e-6)
    scaled = pairs.features / spread
    head = torch.zeros(scaled.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    learned = [head, bias] if trial.length else [head]
    optimizer = torch.optim.LBFGS(learned, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        ahead = scaled @ head + bias * pairs.length - trial.margin * pairs.margin
        losses = (1 - trial.smoothing) * F.softplus(-ahead) + trial.smoothing * F.softplus(ahead)
        loss = (weight * losses).sum() / total + trial.l2 * head.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.detach() / spread, float(bias) if trial.length == "feature" else 0.0


def fitted(trial: Trial, part: Part) -> tuple[Tensor, float]:
    """The trial's head, or the mean of its heads on rankings drawn with replacement."""
    pairs = pairs_of(part, trial.columns)
    weight = trial.rows(pairs, part)
    if not trial.seeds:
        return fit(pairs, weight, trial)
    heads, biases = [], []
    for seed in range(trial.seeds):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(part.rankings), (len(part.rankings),), generator=generator)
        times = torch.bincount(drawn, minlength=len(part.rankings))[pairs.ranking]
        head, bias = fit(pairs, weight * times, trial)
        heads.append(head)
        biases.append(bias)
    return torch.stack(heads).mean(0), sum(biases) / len(biases)


def of_sources(*wanted: str) -> Callable[[Pairs, Part], Tensor]:
    """Rows of sources whose name holds one of these."""
    return lambda pairs, part: (
        pairs.weight
        * torch.tensor([float(any(name in source for name in wanted)) for source in part.sources])[
            pairs.ranking
        ]
    )


def sources_alike(pairs: Pairs, part: Part) -> Tensor:
    """Every source weighs the same in all."""
    totals = {source: part.sources.count(source) for source in set(part.sources)}
    return pairs.weight * torch.tensor([1 / totals[source] for source in part.sources])[pairs.ranking]


def lengths_balanced(pairs: Pairs, part: Part) -> Tensor:
    """Longer and shorter preferred answers weigh the same in every source."""
    weight = pairs.weight.clone()
    for source in set(part.sources):
        mine = torch.tensor([other == source for other in part.sources])[pairs.ranking]
        longer, shorter = mine & (pairs.length > 0), mine & (pairs.length < 0)
        if longer.any() and shorter.any():
            weight[longer] *= weight[shorter].sum() / weight[longer].sum()
    return weight


def consistent(pairs: Pairs, part: Part) -> Tensor:
    """Rankings that a head fitted on the other half does not find wrong (Liu et al. 2025, Skywork-Reward-V2, section 3.2)."""
    weight = pairs.weight.clone()
    half = pairs.ranking % 2 == 0
    for mine in (half, ~half):
        head, _ = fit(replace(pairs, **{name: getattr(pairs, name)[~mine] for name in vars(pairs)}), pairs.weight[~mine], Trial(""))  # fmt: skip
        chance = (pairs.features @ head).sigmoid()
        weight[mine & (chance < UNSURE)] = 0.0
    return weight


BOTH = tuple((depth, where) for depth in (0.75,) for where in READ_AT)
TRIALS = [
    *(Trial(f"state at {depth:g} of the depth, {where}", ((depth, where),)) for depth in DEPTHS for where in READ_AT),
    Trial("0.75, last and mean", BOTH),
    Trial("all depths, last and mean", tuple((depth, where) for depth in DEPTHS for where in READ_AT)),
    *(Trial(f"l2 {l2:g}", l2=l2) for l2 in (0.03, 0.1, 1.0, 3.0)),
    *(Trial(f"label smoothing {share:g}", smoothing=share) for share in (0.05, 0.1, 0.2)),
    *(Trial(f"margin {margin:g} by rank", margin=margin) for margin in (0.25, 0.5, 1.0)),
    Trial("HH only", rows=of_sources("hh")),
    Trial("OASST and MT-bench only", rows=of_sources("oasst", "mt_bench")),
    Trial("sources weigh alike", rows=sources_alike),
    Trial("length as a feature", length="feature"),
    Trial("length beside the head, then dropped", length="nuisance"),
    Trial("pairs balanced by length", rows=lengths_balanced),
    Trial("pairs that the other half finds wrong left out", rows=consistent),
    Trial(f"mean of {SEEDS} heads on rankings drawn anew", seeds=SEEDS),
    Trial("0.75, last and mean; sources alike", BOTH, rows=sources_alike),
    Trial("0.75, last and mean; length as a feature", BOTH, length="feature"),
]  # fmt: skip
TUNED: dict[str, tuple[dict[str, Any], ...]] = {  # of several their weights are averaged
    "last 6 blocks": ({},),
    "another seed": ({"seed": 1},),
    "mean weights of two seeds": ({}, {"seed": 1}),
    "LoRA of rank 8": ({"last_blocks": 0, "lora_rank": 8, "lr": 2e-4},),
    "all blocks": ({"last_blocks": 0},),
    "one epoch": ({"epochs": 1.0},),
    "last 2 blocks": ({"last_blocks": 2},),
    "rows of 256 tokens": ({"max_length": 256},),
    "head of chance": ({"probe_l2": 0.0},),
    "two epochs": ({"epochs": 2.0},),
}


def scored(part: Part, trial: Trial, head: Tensor, bias: float) -> list[RankedPair]:
    """The part's pairs with the head's scores."""
    at = [DEPTHS.index(depth) * len(READ_AT) + READ_AT.index(where) for depth, where in trial.columns]
    pairs: list[RankedPair] = []
    for ranking, states, source in zip(part.rankings, part.states, part.sources, strict=True):
        scores = states[:, at].float().flatten(1) @ head
        lengths = torch.tensor([log_length(text) for text in ranking.completions])
        pairs += ranked_pairs([ranking], [(scores + bias * lengths).tolist()], source)
    return pairs


def result(name: str, pairs: Sequence[RankedPair], seconds: float) -> dict[str, Any]:
    """One line of the table."""
    found = calibration(pairs)
    return {
        "trial": name,
        "accuracy": accuracy(pairs),
        "by_source": {source: beside_length(rows) for source, rows in grouped(pairs, lambda p: p.source).items()},
        "calibration_error": found["error"],
        "at_temperature": found["error_at_temperature"],
        "temperature": found["temperature"],
        "seconds": round(seconds, 1),
    }  # fmt: skip


def tuned(
    each: Sequence[Mapping[str, Any]], options: argparse.Namespace, parts: Mapping[str, list[tuple[str, Ranking]]]
) -> list[RankedPair]:  # fmt: skip
    """The validation pairs with the scores of a reward model that the stage trained; of several, of their mean weights."""
    from rlhf.learning.rewards import score_completions
    from rlhf.models.checkpoints import load_scalar
    from rlhf.models.tokenizer import load_tokenizer
    from rlhf.store import Store
    from stages import reward

    file = options.work / f"rankings-{options.rankings}.jsonl"
    if not file.exists():
        file.write_text("".join(json.dumps(asdict(row)) + "\n" for _, row in parts["rest"]))
    given = dict(init=options.model, data=str(file), validation_fraction=0.0, name="trial")
    of = [
        settings_of(RewardSettings, read_recipe(options.recipe), "reward", **{**given, **one}) for one in each
    ]
    folders = [reward.run(settings, Store(options.work / "store"), None, print).path for settings in of]
    models, tokenizer = [load_scalar(folder) for folder in folders], load_tokenizer(folders[0])
    with torch.no_grad():
        for mine, *others in zip(*(model.parameters() for model in models), strict=True):
            mine.copy_(torch.stack([mine, *others]).mean(0))
    flat = [(row.prompt, text) for _, row in parts["validation"] for text in row.completions]
    scores = iter(
        score_completions(models[0], tokenizer, flat, batch_size=BATCH, max_length=of[0].max_length)
    )
    pairs: list[RankedPair] = []
    for source, row in parts["validation"]:
        pairs += ranked_pairs([row], [[next(scores) for _ in row.completions]], source)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a language model")
    parser.add_argument("--recipe", default="gemma-files", help="whose [data] and [reward] they are")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="states, models and trials.jsonl")
    parser.add_argument("--rankings", type=int, default=2000, help="to learn from")
    parser.add_argument("--max-length", type=int, default=384, help="of rows for frozen states")
    parser.add_argument("--tuned", action="store_true", help="train whole models instead of heads")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    parts = divided(options.recipe, options.data, options.rankings)
    log = options.work / "trials.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {line["trial"] for line in lines if line["rankings"] == options.rankings}
    for name, work in trials(options, parts).items():
        if name in done:
            continue
        started = time.monotonic()
        pairs = work()
        line = json.dumps({"rankings": options.rankings, **result(name, pairs, time.monotonic() - started)})
        with log.open("a") as out:
            out.write(line + "\n")
        print(line, flush=True)
    print_table(log, options.rankings)


def trials(
    options: argparse.Namespace, parts: Mapping[str, list[tuple[str, Ranking]]]
) -> dict[str, Callable[[], list[RankedPair]]]:
    """What to run, by the name of its line."""
    if options.tuned:
        return {f"tuned: {name}": partial(tuned, each, options, parts) for name, each in TUNED.items()}
    from functools import cache

    from rlhf.machine.devices import set_threads
    from rlhf.models.checkpoints import load_policy
    from rlhf.models.tokenizer import load_chat_tokenizer

    set_threads(0)
    model = cache(lambda: load_policy(options.model).eval())
    tokenizer = load_chat_tokenizer(options.model)
    folder = options.work / f"states-{options.max_length}"
    read = {
        name: read_part(model, tokenizer, rows, options.max_length, folder / name)
        for name, rows in parts.items()
    }
    return {
        trial.name: partial(lambda one: scored(read["validation"], one, *fitted(one, read["rest"])), trial)
        for trial in TRIALS
    }


def print_table(log: Path, num_rankings: int) -> None:
    """The trials on so many rankings as a table for the lab log."""
    rows = [
        row for line in log.read_text().splitlines() if (row := json.loads(line))["rankings"] == num_rankings
    ]
    sources = list(rows[0]["by_source"])
    print("| trial | all | " + " | ".join(f"{name} (longer)" for name in sources) + " | ECE, at T |")
    print("|" + "---|" * (len(sources) + 3))
    for row in rows:
        each = [
            f"{found['accuracy'][0]:.1%} ({found['longer_answer'][0]:.1%})"
            for name in sources
            if (found := row["by_source"][name])
        ]
        low, high = row["accuracy"][1:]
        print(
            f"| {row['trial']} | {row['accuracy'][0]:.1%} [{100 * low:.1f}, {100 * high:.1f}] | {' | '.join(each)} | "
            f"{row['calibration_error']:.3f}, {row['at_temperature']:.3f} |"
        )


if __name__ == "__main__":
    main()
