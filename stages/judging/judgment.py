"""Policies judged against each other: who wins, how sure that is, what it cost, and how far each went from a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from annotate.figures.strengths import Game, strength_table
from rlhf.data import PromptRow
from rlhf.machine.devices import set_threads
from rlhf.measuring.best_of import best_of_curve, kl_of_best_of
from rlhf.measuring.diversity import distinct_bigrams, repetition, share_alike
from rlhf.measuring.evaluate import WinRate, win_rate, win_rate_at_equal_length
from rlhf.models.sources import sha256_of
from rlhf.splits import conversation_key
from stages.judging.answers import Answers, Model, answer, best_of, rewards_as_seen
from stages.judging.changes import against, behind_best, paired
from stages.judging.judges import Judge, Outcome, Scorer
from stages.judging.kept import MeasurementCache
from stages.judging.measure import Task, follows, text_loss
from stages.judging.sampled import SampleFile
from stages.judging_settings import JudgingSettings

NUM_EXAMPLES = 100
DEMONSTRATIONS = "demonstrations"  # the side of people's own answers


@dataclass(frozen=True)
class Judgment:
    """Who is judged, by whom and on what.

    policies: in the order of the report, each compared with those before it. reference: the policy that KL is measured to
    and whose best of n is judged. reward: what PPO trained on, where it is not the judge. tasks: prompts to measure
    constraints on. texts: a file of plain text to measure the loss on. Neither is measured for `on_the_way`, checkpoints
    in the middle of training. peers: models of other people, whose loss on plain text is left out: with other tokens it
    cannot be compared with ours. demonstrations: people's own answers to the rows, "" to those that have none. What wins
    against them says how far the models are from people, and what the base loses to them how far this judge can see.
    """

    settings: JudgingSettings
    policies: Mapping[str, Model]
    reference: str | None
    rows: Sequence[PromptRow]
    judge: Judge
    reward: Scorer | None
    kept: MeasurementCache
    seed: int
    tasks: Sequence[Task] = ()
    texts: str | None = None
    on_the_way: Sequence[str] = ()
    peers: Sequence[str] = ()
    demonstrations: Sequence[str] = ()

    def run(self) -> dict[str, Any]:
        """Every measurement of the report, as JSON."""
        set_threads(0)
        given = {name: self.answers(name, place) for place, name in enumerate(self.policies)}
        frontier = self._add_best_of(given) if self.settings.best_of > 1 and self.reference else []
        scores = {name: self.judge.scores(self.rows, name, answers) for name, answers in given.items()}
        rewards = {
            name: self.reward.scores(self.rows, name, answers) if self.reward else None
            for name, answers in given.items()
        }
        outcomes = {
            (policy, against): self.judge.compare(self.rows, given, policy, against)
            for against, policy in combinations(given, 2)
        }
        measured = [name for name in self.policies if name not in self.on_the_way]
        return {
            "prompts": len(self.rows),
            "judge": self.judge.name,
            "reward": self.reward.name if self.reward else None,
            "reference": self.reference,
            "temperature": self.settings.temperature,
            "policies": {name: described(given[name], scores[name], rewards[name]) for name in given},
            "comparisons": [
                *(row for pair, found in outcomes.items() if (row := self._comparison(*pair, given, found))),
                *self._against_demonstrations({name: given[name] for name in given if name not in self.on_the_way}),
            ],
            "strengths": self._strengths(outcomes),
            "curve": self._curve(given, scores, rewards),
            "changes": self._changes(given),
            "best_of": frontier,
            "tasks": self._all_tasks(measured) if self.tasks else {},
            "text_loss": {name: self._text_loss(name) for name in measured if name not in self.peers} if self.texts else {},
            "examples": [
                {"prompt": row.prompt, "answers": {name: _example(given[name], scores[name], i) for name in given}}
                for i, row in enumerate(self.rows[:NUM_EXAMPLES])
            ],
        }  # fmt: skip

    @cached_property
    def _conversations(self) -> list[str]:
        """What each row's prompt began with: rows of one conversation are not independent of each other."""
        return [conversation_key(row.prompt) for row in self.rows]

    def answers(self, policy: str, draw: int, n: int = 1) -> Answers:
        """n answers of a policy to every prompt; draw tells apart what is sampled from the same prompts.

        Draws of their own: shared random numbers would turn sampling luck into ties and flatter the better side.
        """
        model, seed = self.policies[policy], self.seed + 1_000_003 * draw
        reference = None if self.reference in (None, policy) else self.policies[str(self.reference)]
        prompts = [row.prompt for row in self.rows]
        temperature, longest = self.settings.temperature, self.settings.max_new_tokens
        inputs = [model.hash, reference and reference.hash, temperature, longest, prompts, n, seed]
        name = f"answers of {policy}" if n == 1 else f"{n} answers of {policy}"

        def sampled(file: SampleFile | None) -> dict[str, Any]:
            return asdict(
                answer(
                    model, reference, prompts,
                    n=n, temperature=temperature, max_new_tokens=longest, seed=seed, file=file,
                )
            )  # fmt: skip

        return Answers(**self.kept.get_or_sample(name, inputs, sampled))

    def _add_best_of(self, given: dict[str, Answers]) -> list[dict[str, Any]]:
        """Put the reference's best of n behind it; returns what the best of each smaller n gives."""
        n, reference = self.settings.best_of, str(self.reference)
        assert self.reward is not None
        candidates = self.answers(reference, len(self.policies), n)
        whose = f"{n} answers of {reference}"
        rewards = self.reward.scores(self.rows, whose, candidates)
        if unjudged := rewards.count(None):
            self.kept.say(
                f"judge: {self.reward.name} does not judge {unjudged} of {whose}: they are chosen only where it judges none"
            )
        seen = rewards_as_seen(candidates, rewards, self.settings.missing_eos_penalty)
        # Greedily all n are one answer, and choosing among them goes nowhere.
        kl = round(kl_of_best_of(n), 4) if self.settings.temperature else None
        found = {f"best of {n}": best_of(candidates, seen, n, kl)}
        after = {name: given.pop(name) for name in list(given)[list(given).index(reference) + 1 :]}
        given.update(found | after)
        judged = self.judge.scores(self.rows, whose, candidates)
        if kl is None or judged is None or None in [*judged, *rewards]:
            return []
        return best_of_curve(np.reshape(seen, (-1, n)), np.reshape(np.array(judged, float), (-1, n)))

    def _comparison(
        self, policy: str, against: str, given: Mapping[str, Answers], found: Sequence[Outcome]
    ) -> dict[str, Any] | None:
        """One cell of the matrix of win rates; None where nobody has judged yet."""
        places = [i for i, outcome in enumerate(found) if outcome is not None]
        if not places:
            return None
        outcomes = [2 * float(found[i] or 0.0) - 1 for i in places]  # 1, 0, −1
        even = [0.0] * len(places)
        words, their_words = ([given[name].num_words[i] for i in places] for name in (policy, against))
        conversations = [self._conversations[i] for i in places]
        equal = win_rate_at_equal_length(outcomes, even, words, their_words, conversations)
        return {
            "policy": policy,
            "against": against,
            "not_judged": len(found) - len(places),
            **win_rate_fields(win_rate(outcomes, even, conversations)),
            "win_rate_at_equal_length": round(equal[0], 4),
            "ci95_at_equal_length": [round(x, 4) for x in equal[1:]],
        }

    def _against_demonstrations(self, given: Mapping[str, Answers]) -> list[dict[str, Any]]:
        """Each policy against people's own answers, on the prompts that have one (Stiennon et al. 2020, section 4.1)."""
        places = [i for i, text in enumerate(self.demonstrations) if text]
        if not places:
            return []
        part = replace(self, rows=[self.rows[i] for i in places], demonstrations=())
        theirs = Answers.written([self.demonstrations[i] for i in places])
        sides = {name: answers.at(places) for name, answers in given.items()} | {DEMONSTRATIONS: theirs}
        rows = [
            part._comparison(
                name, DEMONSTRATIONS, sides, self.judge.compare(part.rows, sides, name, DEMONSTRATIONS)
            )
            for name in given
        ]
        return [row for row in rows if row]

    def _strengths(self, outcomes: Mapping[tuple[str, str], Sequence[Outcome]]) -> list[dict[str, Any]]:
        """Bradley–Terry strengths with ties, strongest first; empty where they are undefined."""
        games: list[Game] = [
            (self._conversations[i], policy, against, {1.0: "a", 0.0: "b"}.get(outcome, "tie"))
            for (policy, against), found in outcomes.items()
            for i, outcome in enumerate(found)
            if outcome is not None
        ]
        return [
            {"policy": row.checkpoint, "log_strength": round(row.log_strength, 4), "ci95": [round(x, 4) for x in row.ci95]}
            for row in strength_table(games).rows
        ]  # fmt: skip

    def _curve(
        self, given: Mapping[str, Answers], scores: Mapping[str, Any], rewards: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The over-optimisation curve, each point with how clearly the best one is above it."""
        names = self._from_reference(given)
        points = [self._point(name, given[name], scores[name], rewards[name]) for name in names]
        return behind_best(points, self._conversations, scores, rewards)

    def _changes(self, given: Mapping[str, Answers]) -> dict[str, Any]:
        """What each policy's answers are more or less of than the reference's, with paired intervals."""
        if self.reference is None:
            return {}
        theirs = given[self.reference]
        return {
            name: against(self._conversations, mine, theirs)
            for name, mine in given.items()
            if name != self.reference
        }

    def _from_reference(self, given: Mapping[str, Answers]) -> list[str]:
        """The reference and the policies behind it whose KL to it is known."""
        if self.reference is None:
            return []
        names = list(self.policies)
        after = names[names.index(self.reference) + 1 :]
        return [self.reference, *(name for name in after if given[name].mean_kl is not None)]

    def _point(
        self, name: str, answers: Answers, scores: Sequence[Any] | None, rewards: Sequence[Any] | None
    ) -> dict[str, Any]:
        """One point of the over-optimisation curve: distance from the reference against what reward and judge say."""
        kl = 0.0 if name == self.reference else answers.mean_kl
        return {"policy": name, "kl": kl, "reward": mean(rewards), "judged": mean(scores)}

    def _all_tasks(self, policies: Sequence[str]) -> dict[str, Any]:
        """The constraints that each policy keeps, and how many more than the reference, task by task."""
        found = {name: self._tasks(name) for name in policies}
        theirs = found.get(str(self.reference), {}).get("kept")
        conversations = [conversation_key(prompt) for prompt, _ in self.tasks]
        return {
            name: each | {"against_reference": paired(conversations, each.get("kept"), theirs)}
            for name, each in found.items()
        }

    def _tasks(self, policy: str) -> dict[str, Any]:
        model, settings = self.policies[policy], self.settings
        asked = [(prompt, constraint.text) for prompt, constraint in self.tasks]
        return self.kept.get_or_sample(
            f"tasks by {policy}",
            [model.hash, asked, settings.max_task_tokens, self.seed],
            lambda file: follows(model, self.tasks, settings.max_task_tokens, self.seed, file),
        )

    def _text_loss(self, policy: str) -> dict[str, Any]:
        model, file, num_tokens = self.policies[policy], str(self.texts), self.settings.text_tokens
        return self.kept.get_or_measure(
            f"text loss of {policy}",
            [model.hash, sha256_of(Path(file)) if Path(file).exists() else file, num_tokens],
            lambda: text_loss(model, file, num_tokens),
        )


def described(
    answers: Answers, scores: Sequence[Any] | None, rewards: Sequence[Any] | None
) -> dict[str, Any]:
    """What a policy's answers are like, each by itself."""
    return {
        "mean_score": mean(scores),
        "mean_reward": mean(rewards),
        "kl": answers.mean_kl,
        "mean_length": mean(answers.lengths),
        "mean_words": mean(answers.num_words),
        "ended": mean(answers.ended),
        "distinct_bigrams": round(distinct_bigrams(answers.texts), 4),
        "repetition": round(repetition(answers.texts), 4),
        "share_alike": round(share_alike(answers.texts), 4),
    }


def win_rate_fields(found: WinRate) -> dict[str, Any]:
    """A win rate as JSON fields."""
    return {
        "win_rate": round(found.win_rate, 4),
        "ci95": [round(x, 4) for x in found.ci95],
        "n": found.n,
        "ties": found.ties,
    }


def mean(values: Sequence[Any] | None) -> float | None:
    """The mean of the values that are there, to four places; None where none is."""
    known = [value for value in values or () if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _example(answers: Answers, scores: Sequence[Any] | None, i: int) -> dict[str, Any]:
    score = scores[i] if scores else None
    return {
        "text": answers.texts[i],
        "ended": answers.ended[i],
        "score": None if score is None else round(score, 3),
    }
