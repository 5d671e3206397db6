"""The best of n completions by a reward: the baseline PPO has to beat, and a maker of demonstrations.

SFT on what it writes is rejection sampling (Bai et al. 2022 call it best-of-n distillation's first step).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data import fingerprint, read_options
from rlhf.durable import write_text
from rlhf.errors import InputError
from rlhf.inputs import load_prompts, locate_model
from rlhf.learning.prompts import ROUND_TO, EncodedPrompt, encode_prompts
from rlhf.learning.reward_sources import (
    columns_read,
    combined_reward,
    load_rewards,
    readers_of,
    shortest_context,
)
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Rollout
from rlhf.machine.devices import best_device, set_threads
from rlhf.measuring.best_of import kl_of_best_of
from rlhf.models.checkpoints import load_policy
from rlhf.models.sources import content_hash
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.store import Store
from stages.judging.answers import not_finite
from stages.judging.sampled import SampleFile, kept_until_done, sample_answers
from stages.judging_settings import BestOfNSettings
from stages.reading import prefixed

PROMPTS_AT_ONCE = 512  # bounds what is held in memory besides the chosen answers


def run(settings: BestOfNSettings, store: Store, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Choose each prompt's best completion; write them as demonstrations; return what `--json` prints.

    Only answers that ended are written: a truncated one would teach SFT to stop in the middle. `kl_bound` is how far
    the chosen answers can be from sampling, in nats per completion. An answer that no reward judges is never chosen.
    Raises InputError if the file exists, and for a reward that is no finite number.
    """
    out = _new_file(settings.out) if settings.out else None
    set_threads(0)
    folder, entry = locate_model(store, settings.policy)
    policy, tokenizer = (
        load_policy(folder).to(best_device()).eval(),
        load_tokenizer(folder, settings.template_kwargs),
    )
    sources, _, _ = load_rewards(store, settings.reward)
    reward = combined_reward(sources, tokenizer)
    context, whose = shortest_context(readers_of(tokenizer, {"policy": policy}, sources))
    given, _ = load_prompts(
        settings.prompts, "train", settings.num_prompts, settings.seed + 1,
        read_options(settings, prefixed("best-of-n", say)),
    )  # fmt: skip
    prompts = encode_prompts(
        given,
        tokenizer,
        context,
        settings.max_new_tokens,
        settings.skip_long,
        prefixed("best-of-n", say),
        whose,
    )
    columns_read(sources, [row.columns for row in prompts])
    say(f"best-of-n: {settings.n} answers to each of {len(prompts)} prompts")
    made_of = entry.hash if entry else content_hash(settings.policy)
    key = fingerprint([made_of, [row.tokens for row in prompts], asdict(replace(settings, out=None))])
    with kept_until_done(store, "best-of-n", key, say) as work:
        of_all, of_best, demonstrations = _chosen(policy, tokenizer, reward, prompts, settings, work)
        unjudged = _num_unjudged(len(prompts), len(of_best), settings.reward, say)
        if out:
            write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in demonstrations))
    return {
        "policy": settings.policy,
        "reward": settings.reward,
        "n": settings.n,
        "prompts": len(prompts),
        "unjudged": unjudged,
        "mean_reward": round(float(of_all.mean()), 4),
        "mean_reward_of_best": round(float(of_best.mean()), 4),
        "kl_bound": round(kl_of_best_of(settings.n), 4) if settings.temperature else 0.0,
        "ended": round(len(demonstrations) / len(of_best), 4),
        "written": len(demonstrations) if out else 0,
        "out": str(out) if out else None,
    }


def _new_file(name: str) -> Path:
    out = Path(name)
    if out.exists() or out.suffix != ".jsonl":
        raise InputError(
            f"{out}: {'exists already' if out.exists() else 'not a .jsonl file'}; name a new .jsonl file"
        )
    return out


def _chosen(
    policy: Any,
    tokenizer: AnyTokenizer,
    reward: Reward,
    prompts: Sequence[EncodedPrompt],
    settings: BestOfNSettings,
    work: Path | None,
) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Mean and highest score of each judged prompt, and its best completion as a demonstration where that ended.

    What is sampled is kept under `work`, so that an interrupted run goes on with the rest.
    """
    of_all, of_best = Tensor(), Tensor()
    demonstrations: list[dict[str, Any]] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = prompts[start : start + PROMPTS_AT_ONCE]
        candidates = sample_candidates(
            policy, tokenizer, reward, some, settings.n, settings.temperature, settings.max_new_tokens,
            settings.seed * 1_000_003 + start, settings.missing_eos_penalty,
            SampleFile(work and work / f"{start}.samples", f"best-of-n, prompts {start + 1} to {start + len(some)}"),
        )  # fmt: skip
        of_all, of_best = torch.cat([of_all, candidates.means()]), torch.cat([of_best, candidates.of_best()])
        demonstrations += as_demonstrations(candidates.rollout.select(candidates.best()), tokenizer)
    return of_all, of_best, demonstrations


def _num_unjudged(prompts: int, judged: int, reward: str, say: Callable[[str], None]) -> int:
    """How many prompts have no answer that the reward judges; says it. Raises InputError where none has one."""
    if not judged:
        raise InputError(f"reward {reward}: judges none of the answers; nothing to choose by")
    if unjudged := prompts - judged:
        say(f"best-of-n: {unjudged} of {prompts} prompts left out: {reward} judges none of their answers")
    return prompts - judged


@dataclass(frozen=True)
class Candidates:
    """n completions of each of P prompts, in a row, and their scores (P, n), a penalty taken from those not ended.

    nan where no reward judges; a prompt none of whose completions is judged is left out of everything.
    """

    rollout: Rollout
    scores: Tensor

    def judged(self) -> Tensor:
        """Whether any completion of each prompt is judged, (P,) bool."""
        return ~self.scores.isnan().all(1)

    def means(self) -> Tensor:
        """The mean score of each judged prompt."""
        return self.scores[self.judged()].nanmean(1)

    def of_best(self) -> Tensor:
        """The highest score of each judged prompt."""
        return self.scores[self.judged()].nan_to_num(-torch.inf).amax(1)

    def best(self) -> list[int]:
        """The row of each judged prompt's best completion."""
        n, best = self.scores.shape[1], self.scores.nan_to_num(-torch.inf).argmax(1)
        return [p * n + int(best[p]) for p in self.judged().nonzero().flatten().tolist()]


def sample_candidates(
    policy: Any,
    tokenizer: AnyTokenizer,
    reward: Reward,
    prompts: Sequence[EncodedPrompt],
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    missing_eos_penalty: float,
    file: SampleFile | None = None,
) -> Candidates:
    """n completions of every prompt with the scores PPO would see, its missing-EOS penalty included."""
    conversations = [row.prompt for row in prompts for _ in range(n)]
    rows = [row.tokens for row in prompts for _ in range(n)]
    samples = sample_answers(policy, tokenizer, rows, temperature, max_new_tokens, seed, file)
    rollout = Rollout.from_samples(
        rows, samples, tokenizer.pad_id, round_to=ROUND_TO, conversations=conversations, end_id=tokenizer.eos_id,
        columns=[row.columns for row in prompts for _ in range(n)],
    )  # fmt: skip
    scores = _scores(reward, rollout) - missing_eos_penalty * (~rollout.ended).float()
    return Candidates(rollout, scores.view(len(prompts), n))


def _scores(reward: Reward, rollout: Rollout) -> Tensor:
    """One score per completion (B,), nan where none judges it. Raises InputError for one that is no finite number."""
    components = reward.components(rollout)
    for name, found in zip(reward.scorers, components.isinf().T, strict=True):
        if found.any():
            raise not_finite(f"reward {name}", rollout.conversations[int(found.nonzero()[0])])
    return reward.combined(components).masked_fill(components.isnan().all(1), torch.nan)


def as_demonstrations(rollout: Rollout, tokenizer: AnyTokenizer) -> list[dict[str, Any]]:
    """Rows of prompt and completion for the completions that ended."""
    rows = zip(rollout.conversations, rollout.completions, rollout.ended.tolist(), strict=True)
    return [
        {"prompt": prompt, "completion": tokenizer.decode(said).strip()}
        for prompt, said, ended in rows
        if ended
    ]
