"""What the numbers say, as sentences made from them and from nothing else."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlhf.intervals import mean_interval
from stages.judging.judgment import DEMONSTRATIONS

Results = Mapping[str, Any]


def findings(results: Results) -> list[str]:
    """A sentence for each thing that was measured, the most wanted first; what was not measured gives none."""
    parts = (wins, sight, checkpoint, lengths, constraints, text_loss, likeness, reward_models)
    return [sentence for part in parts for sentence in part(results)]


def main_rows(results: Results) -> list[dict[str, Any]]:
    """The comparisons of the first setting, where there are several (prompts, temperature)."""
    rows = results["comparisons"]
    where = [(row.get("split"), row.get("temperature")) for row in rows]
    return [row for row, at in zip(rows, where, strict=True) if at == where[0]]


def final_policy(results: Results) -> str:
    """The policy that all was for: the last one."""
    return list(results["policies"])[-1]


def wins(results: Results) -> list[str]:
    """How the last policy does against each other, and the reference against what it came from."""
    final, reference = final_policy(results), results.get("reference")
    wanted = [row for row in main_rows(results) if row["policy"] == final or row["policy"] == reference]
    told = (began_with(results), DEMONSTRATIONS)  # by `sight`
    wanted = [row for row in wanted if (row["policy"], row["against"]) != told]
    wanted.sort(key=lambda row: (row["policy"] != final, row["against"] != reference))
    return [won(row) for row in wanted if " at " not in row["against"]]  # checkpoints on the way have a curve


def won(row: Mapping[str, Any]) -> str:
    """Who wins, by how much and how surely; at equal length too."""
    low, high = row["ci95"]
    verb = "beats" if low > 0.5 else "loses to" if high < 0.5 else "is not clearly better or worse than"
    decided = row["n"] - row["ties"]
    says = f"{row['policy']} {verb} {row['against']}: it wins {share(row['win_rate'])} of {decided:,} decided prompts {between(row['ci95'])}"
    if "win_rate_at_equal_length" in row:
        says += f", at equal length {share(row['win_rate_at_equal_length'])} {between(row['ci95_at_equal_length'])}"
    return f"{says}."


def began_with(results: Results) -> str | None:
    """The policy that training began with, as far as the results say."""
    return "base" if "base" in results["policies"] else results.get("reference")


def sight(results: Results) -> list[str]:
    """Whether the judge tells people's own answers from those of the policy that training began with."""
    first = began_with(results)
    found = [row for row in main_rows(results) if (row["policy"], row["against"]) == (first, DEMONSTRATIONS)]
    if not found:
        return []
    (row,) = found
    low, high = 1 - row["ci95"][1], 1 - row["ci95"][0]
    decided = f"{share(1 - row['win_rate'])} of {row['n'] - row['ties']:,} prompts {between((low, high))}"
    if low > 0.5:
        return [
            f"The judge prefers people's own answers to {first}'s on {decided}: a model's win over {first} is to be read beside that."
        ]
    return [
        f"The judge prefers people's own answers to {first}'s on {decided}, not clearly more than half: what it says of models here is worth little."
    ]


def checkpoint(results: Results) -> list[str]:
    """Which checkpoint to take, by the judge, along the way from the reference."""
    points = sorted((p for p in results["curve"] if p["judged"] is not None and p["kl"] is not None), key=lambda p: p["kl"])  # fmt: skip
    if len(points) < 3:
        return []
    best, last = max(points, key=lambda point: point["judged"]), points[-1]
    take = f"Take {best['policy']} (KL {best['kl']:.1f} nats)"
    if best is last:
        steady = all(a["judged"] <= b["judged"] for a, b in pairwise(points))
        if steady and is_clear(_ahead(points[0], "judged")):
            return [f"The judge's score rises to the end: take {best['policy']} (KL {best['kl']:.1f} nats)."]
        return [
            f"{take}: the judge's score is highest at the end, {best['judged']:.2f}, without a clear rise up to it."
        ]
    if not is_clear(_ahead(last, "judged")):
        return [
            f"{take}: the judge's score is highest there, {best['judged']:.2f}; the last one's, {last['judged']:.2f}, is not "
            "clearly lower."
        ]
    fell = f"after it the judge's score falls from {best['judged']:.2f} to {last['judged']:.2f}"
    ahead = _ahead(last, "reward")
    if is_clear(ahead) and ahead[2] < 0:
        fell += f" while the reward that was climbed still rises from {best['reward']:.2f} to {last['reward']:.2f}: over-optimisation"
    return [f"{take}: {fell}."]


def is_clear(change: Sequence[float] | None) -> bool:
    """Whether a difference [mean, low, high] is there, and its interval without 0."""
    return change is not None and not change[1] <= 0 <= change[2]


def _ahead(point: Mapping[str, Any], what: str) -> Any:
    """By how much the best point is above this one, by prompt; None in results from before that was measured."""
    return (point.get("best_ahead") or {}).get(what)


def lengths(results: Results) -> list[str]:
    """How long answers are and whether they end, last policy beside reference."""
    final, mine, theirs = _final_and_reference(results)
    if theirs is None:
        return []
    ratio = mine["mean_words"] / max(theirs["mean_words"], 1e-9)
    unclear = ", no clear difference" if _is_unclear(results, "words") else ""
    return [
        f"{final}'s answers have {mine['mean_words']:.0f} words, {ratio:.2f} times {results['reference']}'s{unclear}; "
        f"{share(mine['ended'])} of them end by themselves, {share(theirs['ended'])} of {results['reference']}'s."
    ]


def constraints(results: Results) -> list[str]:
    """Whether constraints that a program checks are kept more or less often."""
    final, reference, tasks = final_policy(results), results.get("reference"), results.get("tasks") or {}
    if final not in tasks or reference not in tasks:
        return []
    mine, theirs = tasks[final], tasks[reference]
    apart = mine["ci95"][0] > theirs["ci95"][1] or mine["ci95"][1] < theirs["ci95"][0]
    if mine.get("against_reference"):
        apart = is_clear(mine["against_reference"])  # both had the same tasks
    return [
        f"{final} keeps {share(mine['share'])} of {mine['n']} constraints that a program checks {between(mine['ci95'])}, "
        f"{reference} {share(theirs['share'])} {between(theirs['ci95'])}{'' if apart else ': no clear difference'}."
    ]


def text_loss(results: Results) -> list[str]:
    """What it cost on plain text, against the first policy that reads the text in the same tokens and windows."""
    losses = results.get("text_loss") or {}
    last = next(reversed(losses), "")
    first = next(
        (name for name in losses if losses[name].get("windows") == losses[last].get("windows")), last
    )
    if first == last:
        return []
    before, after = losses[first], losses[last]
    change = after["loss"] - before["loss"]
    windows = [
        one - other
        for one, other in zip(after.get("by_window", ()), before.get("by_window", ()), strict=False)
    ]
    unclear = len(windows) > 1 and not is_clear(mean_interval(range(len(windows)), windows))
    return [
        f"On plain text {last} loses {after['loss']:.3f} nats per token, {first} {before['loss']:.3f}: "
        f"{'a tax of' if change > 0 else 'less by'} {abs(change):.3f}{', no clear difference' if unclear else ''}."
    ]


def likeness(results: Results) -> list[str]:
    """Whether a policy says the same to many, or repeats itself more than the reference."""
    final, mine, theirs = _final_and_reference(results)
    if theirs is None:
        return []
    sentences = []
    if mine["share_alike"] > theirs["share_alike"] + 0.05 and not _is_unclear(results, "share_alike"):
        sentences.append(f"{share(mine['share_alike'])} of {final}'s answers are given to more than one prompt, {share(theirs['share_alike'])} of {results['reference']}'s.")  # fmt: skip
    if mine["repetition"] > theirs["repetition"] + 0.05 and not _is_unclear(results, "repetition"):
        sentences.append(f"{final} repeats itself: {share(mine['repetition'])} of its three-word runs came before in the same answer, {share(theirs['repetition'])} of {results['reference']}'s.")  # fmt: skip
    return sentences


def reward_models(results: Results) -> list[str]:
    """How far each reward model's judgement goes, beside the longer answer and the labelers themselves."""
    return [
        reward_model(name, parts["test"])
        for name, parts in results.get("reward_models", {}).items()
        if "test" in parts
    ]


def reward_model(name: str, found: Mapping[str, Any]) -> str:
    """One reward model in a sentence."""
    accuracy, longer = found["accuracy"], found["longer_answer"]
    beats = (
        ""
        if found["p_against_longer"] < 0.05 and accuracy[0] > longer[0]
        else ", which it does not clearly beat"
    )
    says = (
        f"{name} orders {share(accuracy[0])} of {found['pairs']:,} held-out pairs as their labelers did {between(accuracy[1:])}; "
        f"the longer answer would be right for {share(longer[0])} (p = {found['p_against_longer']:.2g}){beats}"
    )
    if found["labelers_agree"] is not None:
        twice = found.get("pairs_decided_twice")  # reports from before have none
        counted = f"{twice:,} pair{'s' * (twice != 1)}" if twice else "pairs"
        says += f"; two labelers agree on {share(found['labelers_agree'])} of the {counted} on which both prefer an answer"
    calibration = found["calibration"]
    return (
        f"{says}. Its chances are off by {share(calibration['error'])} on average, "
        f"{share(calibration['error_at_temperature'])} with scores divided by {calibration['temperature']:.2f}."
    )


def share(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


def between(interval: Sequence[float]) -> str:
    """An interval of shares in per cent."""
    low, high = interval
    return f"[{100 * low:.0f}, {100 * high:.0f}]"


def _is_unclear(results: Results, what: str) -> bool:
    """Whether the paired interval of the last policy's difference from the reference holds 0."""
    change = results.get("changes", {}).get(final_policy(results), {}).get(what)
    return change is not None and not is_clear(change)


def _final_and_reference(results: Results) -> tuple[str, Any, Any]:
    final, reference = final_policy(results), results.get("reference")
    same = reference is None or reference == final or reference not in results["policies"]
    return final, results["policies"][final], None if same else results["policies"][reference]
