"""The judgment at the end of `rlhf align`: a gold reward model that no stage has seen compares all policies."""

from collections.abc import Mapping
from typing import Any

from rlhf.data import read_demonstrations, read_prompt_rows, read_prompts, read_rankings
from stages.align.data import AlignData
from stages.judging.answers import Model, answers_to
from stages.judging.judges import model_scorer
from stages.judging.judgment import Judgment
from stages.judging.kept import MeasurementCache
from stages.judging.measure import fitting_tasks
from stages.judging.reward_models import report_on_reward_model
from stages.judging_settings import AlignEvalSettings
from stages.reading import prefixed

PARTS = ("validation", "test")


def judge_policies(
    settings: AlignEvalSettings,
    policies: Mapping[str, Model],
    judges: Mapping[str, Model],
    parts: AlignData,
    max_length: Mapping[str, int],
    kept: MeasurementCache,
    seed: int,
) -> dict[str, Any]:
    """Every measurement of the report. policies in order: peers, base, sft, checkpoints on the way, ppo; judges: reward, gold."""
    reward, gold = (model_scorer(model.folder, model.hash, name, kept) for name, model in judges.items())
    prompts = read_prompts(parts.file("tasks")) if parts.has("tasks") else ()
    folders = [str(model.folder) for model in policies.values()]
    tasks = (
        fitting_tasks(folders, prompts, settings, seed, prefixed("judge: tasks", kept.say)) if prompts else []
    )
    rows = read_prompt_rows(parts.file("prompts_test"))
    written = (
        read_demonstrations(parts.file("demonstrations_test")) if parts.has("demonstrations_test") else ()
    )
    judgment = Judgment(
        settings, policies, "sft", rows, gold, reward, kept, seed,
        tasks, parts.file("texts_test"),
        [name for name in policies if name.startswith("ppo at ")], list(policies)[: list(policies).index("base")],
        answers_to([row.prompt for row in rows], written),
    )  # fmt: skip
    return judgment.run() | {
        "reward_models": {
            name: {part: _on_rankings(name, model, part, parts, max_length[name], kept) for part in PARTS}
            for name, model in judges.items()
        }
    }


def _on_rankings(
    name: str, model: Model, part: str, parts: AlignData, max_length: int, kept: MeasurementCache
) -> dict[str, Any]:
    """What a reward model is worth on people's held-out rankings of one part."""
    files = parts.measured[part]
    return kept.get_or_measure(
        f"{name} on {part} rankings",
        [model.hash, {source: str(file) for source, file in files.items()}, max_length],
        lambda: report_on_reward_model(
            model.folder, {source: read_rankings(file) for source, file in files.items()}, max_length
        ),
    )
