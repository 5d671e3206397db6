"""The judgment at the end of `rlhf align`: a gold reward model that no stage has seen compares all policies.

Each measurement is kept as JSON beside the report with a hash of what went into it, and is not made again for the same.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data import fingerprint, read_prompts, read_rankings
from rlhf.machine.devices import set_threads
from rlhf.machine.memory import give_back_freed_memory
from rlhf.store import write_text
from stages.align.data import AlignData
from stages.judging.measure import Model, answers, best_of, compare, follows, scores, text_loss
from stages.judging.reward_models import report_on_reward_model
from stages.settings import AlignEvalSettings

NUM_EXAMPLES = 40
PARTS = ("validation", "test")
T = TypeVar("T")
Answers = Mapping[str, list[Any]]


class MeasurementCache:
    """Measurements as JSON files in a folder, each made once for the same inputs."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def get_or_measure(self, name: str, inputs: Any, measure: Callable[[], T]) -> T:
        path, key = self.folder / f"{name}.json", fingerprint(inputs)
        if path.exists() and (saved := json.loads(path.read_text()))["inputs"] == key:
            return saved["result"]
        self.say(f"judge: {name}")
        give_back_freed_memory()
        result = measure()
        write_text(path, json.dumps({"inputs": key, "result": result}, ensure_ascii=False))
        return result


@dataclass(frozen=True)
class Judgment:
    """Who is judged, by whom and on what. policies in order: base, sft, checkpoints on the way, ppo."""

    settings: AlignEvalSettings
    policies: Mapping[str, Model]
    judges: Mapping[str, Model]
    parts: AlignData
    max_length: Mapping[str, int]
    missing_eos_penalty: float
    kept: MeasurementCache
    seed: int

    def run(self) -> dict[str, Any]:
        """Every measurement of the report."""
        set_threads(0)
        prompts, best = read_prompts(self.parts.file("prompts_test")), f"best of {self.settings.best_of}"
        given = {name: self.answers(name, place) for place, name in enumerate(self.policies)}
        candidates = self.answers("sft", len(given), self.settings.best_of)
        rewards = self.scores("reward", f"{self.settings.best_of} answers of sft", candidates)
        given[best] = best_of(candidates, rewards, self.settings.best_of, self.missing_eos_penalty)
        gold = {name: self.scores("gold", name, answers) for name, answers in given.items()}
        after = [name for name in self.policies if name not in ("base", "sft")]
        pairs = [
            ("sft", "base"),
            *((name, "sft") for name in after),
            (best, "sft"),
            ("ppo", best),
            ("ppo", "base"),
        ]
        return {
            "prompts": len(prompts),
            "temperature": self.settings.temperature,
            "comparisons": [compare(*pair, prompts, given, gold, self.settings.best_of) for pair in pairs],
            "curve": [self.point(name, given[name], gold[name]) for name in ("sft", *after)],
            "reward_models": {judge: {part: self.on_rankings(judge, part) for part in PARTS} for judge in self.judges},
            "tasks": {name: self.tasks(name) for name in ("base", "sft", "ppo")} if self.parts.has_tasks else {},
            "text_loss": {name: self.text_loss(name) for name in ("base", "sft", "ppo")},
            "examples": [
                {"prompt": prompts[i]}
                | {name: {"text": given[name]["texts"][i], "score": round(gold[name][i], 3)} for name in ("base", "sft", best, "ppo")}
                for i in range(min(NUM_EXAMPLES, len(prompts)))
            ],
        }  # fmt: skip

    def answers(self, policy: str, draw: int, n: int = 1) -> Answers:
        """n answers of a policy to every held-out prompt; draw tells apart what is sampled from the same prompts."""
        model, sft, file = self.policies[policy], self.policies["sft"], self.parts.file("prompts_test")
        seed = self.seed + 1_000_003 * draw
        inputs = [model.hash, sft.hash, asdict(self.settings), file, n, seed]
        return self.kept.get_or_measure(
            f"answers of {policy}" if n == 1 else f"{n} answers of {policy}",
            inputs,
            lambda: answers(
                self.settings, model, None if policy == "sft" else sft, read_prompts(file), n, seed
            ),
        )

    def scores(self, judge: str, whose: str, answers: Answers) -> list[float]:
        """A reward model's score of every answer."""
        model, file = self.judges[judge], self.parts.file("prompts_test")
        return self.kept.get_or_measure(
            f"{judge} scores of {whose}",
            [model.hash, file, answers["texts"]],
            lambda: scores(model, read_prompts(file), answers),
        )

    def point(self, policy: str, answers: Answers, gold: list[float]) -> dict[str, Any]:
        """One point of the over-optimisation curve: distance from SFT against what proxy and gold say of it."""
        proxy, kl = self.scores("reward", policy, answers), answers["kl"]
        return {
            "policy": policy,
            "kl": 0.0 if policy == "sft" else round(sum(kl) / len(kl), 4),
            "reward": round(sum(proxy) / len(proxy), 4),
            "gold": round(sum(gold) / len(gold), 4),
        }

    def on_rankings(self, judge: str, part: str) -> dict[str, Any]:
        """What a reward model is worth on people's held-out rankings of one part."""
        model, longest, files = self.judges[judge], self.max_length[judge], self.parts.measured[part]
        return self.kept.get_or_measure(
            f"{judge} on {part} rankings",
            [model.hash, {source: str(file) for source, file in files.items()}, longest],
            lambda: report_on_reward_model(
                model.folder, {source: read_rankings(file) for source, file in files.items()}, longest
            ),
        )

    def tasks(self, policy: str) -> dict[str, Any]:
        """How often a policy keeps constraints that a program can check."""
        model, file = self.policies[policy], self.parts.file("tasks")
        return self.kept.get_or_measure(
            f"tasks by {policy}",
            [model.hash, file, asdict(self.settings), self.seed],
            lambda: follows(model, self.settings, read_prompts(file), self.seed),
        )

    def text_loss(self, policy: str) -> dict[str, Any]:
        """A policy's loss on held-out plain text: what alignment cost."""
        model, file = self.policies[policy], self.parts.file("texts_test")
        return self.kept.get_or_measure(
            f"plain text by {policy}",
            [model.hash, file, self.settings.text_tokens],
            lambda: text_loss(model, file, self.settings.text_tokens),
        )
