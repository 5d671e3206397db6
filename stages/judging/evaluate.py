"""Judge checkpoints on prompts that no stage has seen: win rate with its interval, KL, reward, length, endings."""

from collections.abc import Callable, Sequence
from typing import Any

from rlhf.data import Prompt, read_options
from rlhf.errors import InputError
from rlhf.inputs import load_prompts, locate_model, starter_items
from rlhf.learning.rewards import score_completions
from rlhf.machine.devices import best_device, set_threads
from rlhf.measuring.evaluate import WinRate, sequence_kl, win_rate
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import load_tokenizer
from rlhf.starter.items import Item
from rlhf.starter.judge import judge
from rlhf.store import Store
from stages.judging.answers import Answers, answer_prompts, fitting_prompts
from stages.reading import prefixed
from stages.settings import EvalSettings


def run(settings: EvalSettings, store: Store, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Judge one checkpoint, alone or against another; returns what `rlhf eval --json` prints.

    On starter prompts the judge scores; on a file's prompts the reward model does. `mean_reward` is the mean score
    of the policy, `kl` the mean log-ratio of its samples to `against` in nats per completion (null without it).
    """
    set_threads(0)
    prompts, items = _prompts(settings, store, say)
    say(f"eval: {settings.policy} on {len(prompts)} prompts")
    answers = answer_prompts(settings, store, settings.policy, prompts, settings.seed)
    scores = _scores(settings, store, items, prompts, answers)
    result: dict[str, Any] = {
        "policy": settings.policy,
        "against": settings.against,
        "scored_by": "starter judge" if items else settings.reward,
        "temperature": settings.temperature,
        "win_rate": None,
        "ci95": None,
        "n": len(prompts),
        "ties": None,
        "kl": None,
        "mean_reward": round(sum(scores) / len(scores), 4),
        "mean_length": round(answers.mean_length, 2),
        "ended": round(answers.share_ended, 4),
    }
    if settings.against:
        # Draws of its own: shared random numbers would turn sampling luck into ties and flatter the better side.
        other = answer_prompts(settings, store, settings.against, prompts, settings.seed + 1_000_003)
        result |= win_rate_fields(win_rate(scores, _scores(settings, store, items, prompts, other), prompts))
        result["kl"] = kl_between(answers, other.policy)
    return result


def win_rate_fields(rate: WinRate) -> dict[str, Any]:
    """A win rate as JSON fields."""
    return {
        "win_rate": round(rate.win_rate, 4),
        "ci95": [round(x, 4) for x in rate.ci95],
        "n": rate.n,
        "ties": rate.ties,
    }


def kl_between(answers: Answers, reference: Any) -> float | None:
    """Nats per completion from the policy that gave the answers to a reference; None where vocabularies differ."""
    if answers.policy.config.vocab_size != reference.config.vocab_size:
        return None
    return round(float(sequence_kl(answers.policy, reference, answers.rollout).mean()), 4)


def _prompts(
    settings: EvalSettings, store: Store, say: Callable[[str], None]
) -> tuple[list[Prompt], list[Item]]:
    if settings.prompts:
        if settings.reward is None:
            raise InputError(
                "your own prompts need something that scores the answers: name a reward model with --reward"
            )
        say = prefixed("eval", say)
        rows, _ = load_prompts(
            settings.prompts, "", settings.num_prompts, settings.seed, read_options(settings, say)
        )
        folders = [
            locate_model(store, name)[0] for name in (settings.policy, settings.against) if name is not None
        ]
        return fitting_prompts(folders, rows, settings, say), []
    held_out = settings.split == "held-out"
    items = starter_items(
        "test" if held_out else settings.split, settings.num_prompts, settings.seed + 1, held_out
    )
    return [item.prompt for item in items], items


def _scores(
    settings: EvalSettings, store: Store, items: list[Item], prompts: Sequence[Prompt], answers: Answers
) -> list[float]:
    if items:
        return judge_scores(items, answers)
    folder, _ = locate_model(store, str(settings.reward))
    model, tokenizer = load_scalar(folder).to(best_device()), load_tokenizer(folder)
    return score_completions(model, tokenizer, list(zip(prompts, answers.texts, strict=True)))


def judge_scores(items: Sequence[Item], answers: Answers) -> list[float]:
    """The starter judge's score, 1 to 7, of each answer."""
    return [
        judge(item, text, ended).score
        for item, text, ended in zip(items, answers.texts, answers.ended, strict=True)
    ]
