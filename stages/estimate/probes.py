"""One probe for each stage, through the code of the stage itself, on its data or on rows made up."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.data import (
    Demonstration,
    Ranking,
    read_demonstrations,
    read_options,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.machine.memory import peak_mib, peak_of_a_long_run_mib
from stages.estimate.estimate import Estimate, Step
from stages.estimate.step import multiplied_weights, timed_step
from stages.settings import PPOSettings, RewardSettings, SFTSettings

ROWS = 1000  # where there is no data
SAMPLE = 64  # rows that a probe tokenises, to take some of every length
WORDS = ["Some", "people", "like", "to", "walk", "in", "the", "park", "when", "there", "is", "little", "wind."]  # fmt: skip
FEWEST_EPISODES, MOST_EPISODES = 4, 32  # completions
PPO_S = 30  # what the measured completions of PPO should take at the most
PTX_TOKENS = 128


def filler_text(num_words: int, place: int) -> str:
    """Words in place of data, others at every place."""
    return " ".join([str(place), *(WORDS[(place + i) % len(WORDS)] for i in range(num_words - 1))])


def evenly_spaced(rows: Sequence[Any], num_rows: int) -> list[Any]:
    """So many rows from all over the data, some more than once where it has fewer."""
    return [rows[i * len(rows) // num_rows] for i in range(num_rows)]


def describe_rows(num_rows: int, named: str | None, what: str) -> str:
    return f"{num_rows:,} {what}" + ("" if named else " of about 160 words, the recipe naming no file")


def probe_sft(folder: str, settings: SFTSettings, num_rows: int, started: float) -> Estimate:
    """A step of SFT, and with it all of them. num_rows: of data, where no file is named."""
    from rlhf.models.tokenizer import load_chat_tokenizer
    from stages.sft.stage import VALIDATION_SHARE, trainer_of

    made = [Demonstration(prompt=filler_text(40, n), completion=filler_text(120, n)) for n in range(num_rows)]
    rows = read_demonstrations(settings.data, options=read_options(settings)) if settings.data else made
    held_out = 0.0 if settings.validation_data else VALIDATION_SHARE
    sample = evenly_spaced(rows, SAMPLE)
    with tempfile.TemporaryDirectory() as work:
        trainer = trainer_of(
            settings, folder, load_chat_tokenizer(folder), sample, sample, Path(work), None, lambda line: None
        )  # fmt: skip
        trained_on = len(trainer.train_dataset) / len(sample)  # less if too long, or packed together
        step = timed_step(trainer, settings, lambda row: len(row["input_ids"]), started)
    num_steps = settings.epochs * len(rows) * (1 - held_out) * trained_on / settings.batch_size
    work = f"{describe_rows(len(rows), settings.data, 'demonstrations')}, {num_steps:.0f} steps of {step.seconds:.2f} s"
    seconds = num_steps * step.seconds * (1 + VALIDATION_SHARE * step.forward_share)
    return Estimate("sft", work, step.before_s + seconds, step.peak_mib, step)


def ranked_prompts(settings: RewardSettings, num_rows: int) -> Sequence[Any]:
    """The prompts that a reward model learns from; num_rows: of made-up ones, where no file is named."""
    from stages.reward.data import group_by_prompt

    made = [
        Ranking(
            prompt=filler_text(40, n),
            completions=(filler_text(120, n), filler_text(120, n + 1)),
            ranks=(0, 1),
        )
        for n in range(num_rows)
    ]
    return group_by_prompt(
        read_rankings(settings.data, options=read_options(settings)) if settings.data else made
    )


def probe_reward(folder: str, settings: RewardSettings, num_rows: int, started: float) -> Estimate:
    """As `probe_sft`."""
    from rlhf.models.tokenizer import load_chat_tokenizer
    from stages.reward.stage import trainer_of

    prompts = ranked_prompts(settings, num_rows)
    with tempfile.TemporaryDirectory() as work:
        plain = replace(settings, probe_l2=0.0)  # the head's fit is one forward pass, reckoned below
        sample = evenly_spaced(prompts, SAMPLE)
        trainer = trainer_of(plain, folder, load_chat_tokenizer(folder), sample, Path(work))
        step = timed_step(trainer, settings, lambda row: sum(map(len, row["rows"])), started)
    return reward_estimate("reward", settings, prompts, step)


def reward_estimate(stage: str, settings: RewardSettings, prompts: Sequence[Any], step: Step) -> Estimate:
    """What training on the prompts takes, of a measured step."""
    num_steps = (
        settings.epochs * len(prompts) * (1 - settings.validation_fraction) / settings.prompts_per_batch
    )
    what = "prompts" if settings.data else "prompts, two answers each"
    work = (
        f"{describe_rows(len(prompts), settings.data, what)}, {num_steps:.0f} steps of {step.seconds:.2f} s"
    )
    whole_passes = bool(settings.probe_l2) + bool(settings.heads)
    passes = settings.validation_fraction + whole_passes / settings.epochs
    seconds = num_steps * step.seconds * (1 + passes * step.forward_share)
    return Estimate(stage, work, step.before_s + seconds, step.peak_mib, step)


def probe_ppo(folder: str, settings: PPOSettings, num_rows: int, started: float) -> Estimate:
    """As `probe_sft`, for one iteration of as many completions as PPO_S allows."""
    from rlhf.models.adapters import lora, scalar_model_over, with_adapters
    from rlhf.models.checkpoints import load_policy, scalar_from_policy
    from rlhf.models.tokenizer import load_chat_tokenizer
    from stages.ppo.trainer import PPOTrainer

    policy, rank = load_policy(folder), settings.lora_rank
    reward = with_adapters(scalar_model_over(policy), rank, "score") if rank else scalar_from_policy(policy)
    prompts: Sequence[Any] = [filler_text(40, n) for n in range(num_rows)]
    texts: Sequence[str] = [filler_text(100, n) for n in range(num_rows)]
    if settings.prompts:
        prompts = read_prompts(settings.prompts, options=read_options(settings))
    if settings.ptx_data:
        texts = read_texts(settings.ptx_data)
    most = min(settings.minibatch_size, MOST_EPISODES)
    trainer = PPOTrainer(
        one_iteration(settings, most), processing_class=load_chat_tokenizer(folder), model=policy, reward_model=reward,
        train_dataset=evenly_spaced(prompts, SAMPLE), peft_config=lora(rank) if rank else None,
        pretrain_dataset=evenly_spaced(texts, min(len(texts), ROWS)) if settings.ptx_coef else None, say=lambda line: None,
    )  # fmt: skip
    warm_up(trainer, settings)
    num_episodes = affordable_episodes(trainer, settings, most)
    trainer.args = trainer.sampling.config = one_iteration(settings, num_episodes)
    trainer.learner.iteration = 0
    begun = time.perf_counter()
    trainer.train()
    episode_s = (time.perf_counter() - begun) / num_episodes
    words = "" if settings.prompts else ", prompts of about 40 words"
    work = f"{settings.episodes:,} completions of {episode_s:.2f} s{words}"
    return Estimate(
        "ppo", work, begun - started + settings.episodes * episode_s, peak_of_a_long_run_mib(peak_mib())
    )


def warm_up(trainer: Any, settings: PPOSettings) -> None:
    """An update with one pass on the longest prompts, which the run has in some iteration.

    What is made once is there after it: caches, compiled loops, Adam's moments.
    """
    prompts = trainer.sampling.prompts
    longest = sorted(prompts, key=lambda row: len(row.tokens))[-settings.micro_batch_size :]
    trainer.sampling.prompts = longest
    trainer.args = trainer.sampling.config = replace(one_iteration(settings, len(longest)), inner_epochs=1)
    trainer.train()
    trainer.sampling.prompts = prompts


def expected_answer(folder: str, demonstrations: str, most: int) -> int:
    """Tokens of an answer of the SFT model, at most `most`: about a demonstration's; the base model's need not end."""
    from rlhf.models.tokenizer import load_chat_tokenizer

    tokenizer = load_chat_tokenizer(folder)
    rows = evenly_spaced(read_demonstrations(demonstrations), SAMPLE)
    lengths = [min(most, len(tokenizer.encode_completion(row.completion, row.prompt))) for row in rows]
    return math.ceil(sum(lengths) / len(lengths))


def one_iteration(settings: PPOSettings, num_episodes: int) -> PPOSettings:
    """The settings for an iteration of so many completions, each of another prompt, by one reward; nothing is kept."""
    return replace(
        settings, episodes=num_episodes, batch_size=num_episodes, minibatch_size=num_episodes, completions_per_prompt=1,
        advantages="gae" if settings.advantages == "gae" else "reinforce++", filter_equal_scores=False, kl_budget=0.0,
        value_warmup_iterations=0, save_every=0, keep_every=0, samples_every=0, keep_state=False, reward_combine="sum",
        reward_weights="", pessimism=None, max_staleness=0, eval_every=0, report_to="none",
        kl_budget_action="tighten", eval_prompts=None,
    )  # fmt: skip


def affordable_episodes(trainer: Any, settings: PPOSettings, most: int) -> int:
    """How many completions take PPO_S at the most, by the multiplications of one and a measured product.

    Of each token: written, read by reference, reward and value model, three times as much in each update of policy and
    value model; PPO-ptx's tokens three times.
    """
    from rlhf.machine.devices import best_device, flops_of_a_product

    prompt = sum(len(row.tokens) for row in trainer.prompts) / len(trainer.prompts)
    passes = 4 + 6 * settings.inner_epochs
    tokens = passes * (prompt + settings.max_new_tokens)
    if settings.ptx_coef:
        tokens += 3 * PTX_TOKENS * settings.ptx_examples
    episode_s = 2 * multiplied_weights(trainer.model) * tokens / flops_of_a_product(best_device())
    return max(min(FEWEST_EPISODES, most), min(most, int(PPO_S / episode_s)))


PROBES: dict[str, Callable[[str, Any, int, float], Estimate]] = {
    "sft": probe_sft,
    "reward": probe_reward,
    "gold": probe_reward,
    "ppo": probe_ppo,
}
