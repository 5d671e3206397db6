"""`rlhf eval`: checkpoints judged against each other on prompts that no stage has seen, and a reward model on rankings."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.data import (
    PromptRow,
    Ranking,
    fingerprint,
    read_demonstrations,
    read_options,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.errors import InputError
from rlhf.inputs import load_prompts, locate_model
from rlhf.learning.reward_sources import is_function
from rlhf.models.sources import content_hash
from rlhf.starter.items import Item, take_items
from rlhf.starter.judge import judge
from rlhf.store import NAME, Store
from stages.judging.answers import Answers, Model, answers_to, fitting_prompts
from stages.judging.judges import Judge, Scorer, named_judge, named_scorer
from stages.judging.judgment import Judgment
from stages.judging.kept import MeasurementCache
from stages.judging.measure import Task, fitting_tasks
from stages.judging.reward_models import report_on_reward_model
from stages.judging.sampled import kept_until_done
from stages.judging_settings import EvalSettings
from stages.reading import prefixed


def run(
    settings: EvalSettings,
    store: Store,
    labels_url: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge checkpoints; returns what `rlhf eval --json` prints.

    Every measurement is kept until all are made, with a name also after that, in store/reports/NAME.

    On starter prompts the world's own judge compares unless another is named; on a file's prompts --judge or --reward does.
    """
    _check(settings)
    if settings.name:
        return _judged(settings, store, labels_url, store.root / "reports" / settings.name / "kept", say)
    with kept_until_done(store, "eval", fingerprint(asdict(settings)), say) as folder:
        return _judged(settings, store, labels_url, folder, say)


def _judged(
    settings: EvalSettings,
    store: Store,
    labels_url: str | Path | None,
    folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What the judgment of these settings says; its measurements are kept in the folder."""
    kept = MeasurementCache(folder, say)
    models = {name: _model(store, name, settings.template_kwargs) for name in _names(settings)}
    rows, items = _prompts(settings, models, say)
    scorer = named_scorer(store, settings.reward, kept) if settings.reward else None
    judge = _judge(settings, store, items, scorer, kept, labels_url)
    written = _demonstrations(settings, rows, say)
    tasks = _tasks(settings, models, say)
    rankings = _rankings(settings, say)
    say(f"eval: {', '.join(models)} on {len(rows)} prompts")
    results = Judgment(
        settings,
        models,
        settings.against,
        rows,
        judge,
        scorer,
        kept,
        settings.seed,
        tasks,
        settings.texts,
        demonstrations=written,
    ).run()
    if rankings:
        model, entry = locate_model(store, str(settings.reward))
        longest = entry.manifest["settings"]["max_length"] if entry else None
        results["reward_models"] = {
            str(settings.reward): {"test": report_on_reward_model(model, rankings, longest)}
        }
    return results


def _check(settings: EvalSettings) -> None:
    if settings.name and not NAME.fullmatch(settings.name):
        raise InputError(f"name {settings.name}: use letters, digits, . _ -")
    if settings.prompts and not (settings.judge or settings.reward):
        raise InputError(
            "your own prompts need something that compares the answers: name it with --judge, or a reward model with --reward"
        )
    if settings.rankings and not settings.reward:
        raise InputError("--rankings measures a reward model: name it with --reward")
    if settings.rankings and is_function(str(settings.reward)):
        raise InputError(f"--rankings measures a reward model; {settings.reward} is a function")
    if settings.best_of > 1 and not (settings.reward and settings.against):
        raise InputError("--best-of chooses among answers of --against by --reward: name both")


def _names(settings: EvalSettings) -> list[str]:
    """The policies, the reference first. Raises InputError for one that is named twice."""
    names = [settings.against] if settings.against else []
    names += [name.strip() for name in settings.policy.split(",") if name.strip()]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{', '.join(sorted(doubled))}: judged against itself; name each checkpoint once")
    return names


def _model(store: Store, name: str, template_kwargs: str) -> Model:
    folder, entry = locate_model(store, name)
    made = entry.hash if entry else content_hash(name)
    return Model(folder, f"{made} {template_kwargs}".strip(), template_kwargs)


def _prompts(
    settings: EvalSettings, models: dict[str, Model], say: Callable[[str], None]
) -> tuple[list[PromptRow], list[Item]]:
    if settings.prompts:
        say = prefixed("eval", say)
        rows, _ = load_prompts(
            settings.prompts, "", settings.num_prompts, settings.seed, read_options(settings, say)
        )
        return fitting_prompts([str(model.folder) for model in models.values()], rows, settings, say), []
    items = starter_items(settings)
    return [PromptRow(prompt=item.prompt) for item in items], items


def _demonstrations(
    settings: EvalSettings, rows: Sequence[PromptRow], say: Callable[[str], None]
) -> list[str]:
    """People's own answers to the prompts, "" to those that have none; [] without --demonstrations.

    Raises InputError where no prompt has one.
    """
    if not settings.demonstrations:
        return []
    options = read_options(settings, prefixed("eval", say))
    written = answers_to(
        [row.prompt for row in rows], read_demonstrations(settings.demonstrations, options=options)
    )
    if not any(written):
        raise InputError(
            f"--demonstrations {settings.demonstrations}: answers none of the {len(rows)} prompts"
        )
    say(f"eval: {sum(map(bool, written))} of {len(rows)} prompts have an answer in {settings.demonstrations}")
    return written


def starter_items(settings: EvalSettings) -> list[Item]:
    """Items of the starter world by --split; held-out are those of its test part in wordings that are never trained on."""
    held_out = settings.split == "held-out"
    return take_items(
        "test" if held_out else settings.split, settings.num_prompts, settings.seed + 1, held_out
    )


def _tasks(settings: EvalSettings, models: dict[str, Model], say: Callable[[str], None]) -> list[Task]:
    """The tasks of --tasks; --texts is read too, so that what is wrong with it is said before anything is measured."""
    say = prefixed("eval", say)
    if settings.texts:
        read_texts(settings.texts)
    if not settings.tasks:
        return []
    prompts = read_prompts(settings.tasks, options=read_options(settings, say))
    folders = [str(model.folder) for model in models.values()]
    say = prefixed("tasks", say)
    try:
        return fitting_tasks(
            folders, prompts, settings, settings.seed, say, settings.skip_long, settings.template_kwargs
        )
    except InputError as problem:
        raise InputError(
            f"--tasks {settings.tasks} (max_task_tokens stands for max_new_tokens): {problem}"
        ) from None


def _rankings(settings: EvalSettings, say: Callable[[str], None]) -> dict[str, Sequence[Ranking]]:
    if not settings.rankings:
        return {}
    source = Path(settings.rankings).name.split(".")[0]
    rows = read_rankings(settings.rankings, options=read_options(settings, prefixed("eval", say)))
    if not any(row.pairs() for row in rows):
        raise InputError(
            f"--rankings {settings.rankings}: holds no pair of answers of which one is preferred"
        )
    return {source: rows}


def _judge(
    settings: EvalSettings,
    store: Store,
    items: Sequence[Item],
    reward: Scorer | None,
    kept: MeasurementCache,
    labels_url: str | Path | None,
) -> Judge:
    if settings.judge:
        return named_judge(store, settings.judge, kept, labels_url, settings.name)
    if items:
        return starter_judge(items, kept)
    assert reward is not None
    return reward


def starter_judge(items: Sequence[Item], kept: MeasurementCache) -> Scorer:
    """The starter world's judge, 1 to 7, which knows what each of these items asks for."""

    def score(rows: Sequence[PromptRow], answers: Answers) -> list[float | None]:
        n = len(answers.texts) // len(rows)
        asked = [item for item in items for _ in range(n)]
        return [
            judge(item, text, ended).score
            for item, text, ended in zip(asked, answers.texts, answers.ended, strict=True)
        ]

    return Scorer("starter judge", "", score, kept, reads_ends=True)
