"""Stage 2: a scalar reward from rankings, on trl's RewardTrainer but with rankings kept whole.

All pairs of a prompt stand in one batch element and each completion runs through the model once, however many
labelers ranked it (Ouyang et al. 2022, section 3.5: pairs shuffled apart overfit within one epoch).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from trl import RewardConfig

from annotate.labels import LabelStore
from rlhf.data import Prompt, Ranking, fingerprint, read_options, read_rankings
from rlhf.errors import InputError
from rlhf.inputs import entry_for_all, limit_trainable, locate_parent, within_context
from rlhf.learning.linear_probe import save_heads
from rlhf.learning.metrics import MetricLog
from rlhf.learning.optimizers import JointOptimizer, muon_and_adamw
from rlhf.learning.rewards import score_completions, score_rows
from rlhf.learning.training import seed_everything
from rlhf.machine import processes
from rlhf.machine.devices import best_device, set_threads
from rlhf.measuring.evaluate import ranking_accuracy
from rlhf.models.adapters import is_adapted, save_adapters, trunk_hash
from rlhf.models.checkpoints import check_fits, fold_bias, load_policy, scalar_from_policy
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.sampling.trial import check_causal, check_trainable
from rlhf.sharding import refuse_launchers_sharding, whole
from rlhf.splits import held_out
from rlhf.store import Entry, Store, inputs_hash
from stages.reading import accounts_of, prefixed
from stages.reward.data import (
    RankedPrompt,
    RankingCollator,
    group_by_prompt,
)
from stages.reward.head import fit_ensemble, fit_head
from stages.reward.tokens import Counts, encode_rankings, tokenize_rankings
from stages.reward.trainer import RankingTrainer
from stages.settings import RewardSettings
from stages.sft.kept import kept_demonstrations
from stages.stopwatch import Stopwatch
from stages.trainers.parts import common_arguments, divide, last_checkpoint, train_with_progress

HEADS_L2 = 0.3  # of an ensemble's heads, where probe_l2 names no other


def run(
    settings: RewardSettings,
    store: Store,
    labels_url: str | Path | None = None,
    say: Callable[[str], None] = print,
    batch: str | None = None,
    read: Sequence[dict[str, Any]] = (),
) -> Entry:
    """Train a reward model into the store, on the rankings in settings.data or else in the label store.

    Of the label store it takes the snapshot settings.labels, or one made now (of one batch, if named). Afterwards the
    demonstrations that the policy was fine-tuned on have mean reward 0 (Ouyang et al. 2022, section 3.5). read: accounts of
    the sources that the rankings were made of, for the manifest.
    """
    refuse_launchers_sharding("reward", "it divides the weights by itself, shard = on")
    processes.join_process_group()
    _refuse_heads_of_many_processes(settings)
    say = say if processes.is_main_process() else lambda line: None
    settings, rankings = _rankings(settings, labels_url, batch, say)
    groups = group_by_prompt(rankings)
    init = locate_parent(store, settings.init, "init")
    folder = init.folder
    inputs: dict[str, Any] = {
        "parents": init.parents,
        "settings": settings,
        "data": {_source(settings): fingerprint([asdict(group) for group in groups])} | init.data,
        "seed": settings.seed,
    }
    if found := store.find("reward", **inputs):
        say(f"reward: {found.ref} is there already")
        return found
    demonstrations = kept_demonstrations(init.parents.get("init"))  # read before the training, not after it
    set_threads(0)
    seed_everything(settings.seed)
    tokenizer = load_tokenizer(folder, settings.template_kwargs)
    training, measured = _divided(groups, settings.validation_fraction, prefixed("reward", say))
    say(f"reward: {len(rankings)} rankings of {len(training)} prompts, {len(measured)} held out")
    work = store.work_folder("reward", inputs_hash("reward", **inputs))
    log = MetricLog(store.root / "logs" / f"reward-{settings.name}" if processes.is_main_process() else None)
    with Stopwatch(work) as watch:
        trainer = trainer_of(settings, folder, tokenizer, training, work, prefixed("reward", say))
        train_with_progress(trainer, "reward", log, work)
    metrics = {"prompts": len(trainer.train_dataset), "train_s": round(watch.seconds, 1)}
    with whole(trainer.model) as model:
        if processes.is_main_process():
            with store.new("reward", settings.name, **inputs) as writer:
                writer.read = [*read, *accounts_of(rankings)]
                offset = _zero_offset(model.eval(), tokenizer, demonstrations, settings.max_length)
                writer.metrics = metrics | _held_out(model, tokenizer, measured, settings)
                plain = save(model, folder, offset, writer.path)
                if settings.heads:
                    _save_ensemble(plain, trainer.train_dataset, tokenizer.pad_id, settings, writer.path)
                tokenizer.save(writer.path)
                log.save(writer.path)
            store.discard_work("reward", inputs_hash("reward", **inputs))
    return entry_for_all(store, "reward", inputs)


def _refuse_heads_of_many_processes(settings: RewardSettings) -> None:
    if settings.heads and processes.world_size() > 1:
        raise InputError(
            "reward: heads are fitted by one process; start it without a launcher, or leave heads 0"
        )


def _save_ensemble(model: Any, rankings: Any, pad_id: int, settings: RewardSettings, folder: Path) -> None:
    """Fit the ensemble of heads on what the model was trained on, and write it beside the model."""
    l2 = settings.probe_l2 or HEADS_L2
    save_heads(fit_ensemble(model, rankings, pad_id, settings.heads, l2, settings.seed), folder)


def save(model: Any, policy: str, offset: float, folder: Path) -> Any:
    """The reward model, with `offset` added to its scores, as a plain checkpoint, returned; its adapters, if any, beside it.

    policy: where the model that it was made of is loaded from.
    """
    if is_adapted(model):
        save_adapters(model, trunk_hash(load_policy(policy)), offset, folder)
        model = model.merge_and_unload()
    if offset:
        fold_bias(model, offset)
    model.save_pretrained(folder)
    return model


def _zero_offset(
    model: Any, tokenizer: AnyTokenizer, rows: list[tuple[Prompt, str]], max_length: int
) -> float:
    """What gives the demonstrations that the policy was fine-tuned on mean reward 0; 0 where there are none."""
    if not rows:
        return 0.0
    scores = score_completions(model, tokenizer, rows, max_length=within_context(model, max_length))
    return -float(torch.tensor(scores).mean())


def _source(settings: RewardSettings) -> str:
    return settings.data or f"label snapshot {settings.labels}"


def _rankings(
    settings: RewardSettings, labels_url: str | Path | None, batch: str | None, say: Callable[[str], None]
) -> tuple[RewardSettings, Sequence[Ranking]]:
    """The rankings, and the settings with the snapshot they are of."""
    if settings.data:
        options = read_options(settings, prefixed("reward", say))
        return settings, read_rankings(settings.data, options=options)
    with LabelStore(labels_url, make=False) as labels:
        snapshot = settings.labels or processes.broadcast_from_main(lambda: labels.snapshot(batch).id)
        return replace(settings, labels=snapshot), labels.rankings(snapshot=snapshot)


def _divided(
    groups: Sequence[RankedPrompt], fraction: float, say: Callable[[str], None]
) -> tuple[Sequence[RankedPrompt], Sequence[RankedPrompt]]:
    """Groups to learn from and groups to measure on, which share no conversation; of one conversation nothing is measured."""
    if not fraction:
        return groups, []
    try:
        return held_out(groups, lambda group: group.prompt, fraction)
    except InputError:
        say("all rankings are of one conversation, so none is held out to measure on")
        return groups, []


def _held_out(
    model: Any, tokenizer: AnyTokenizer, measured: Sequence[RankedPrompt], settings: RewardSettings
) -> dict[str, Any]:
    """`held_out_metrics` of the prompts held out; nothing where none of them is left."""
    max_length = within_context(model, settings.max_length)
    examples = list(encode_rankings(measured, tokenizer, max_length, settings.skip_long, Counts()))
    return held_out_metrics(model, tokenizer, examples) if examples else {}


def held_out_metrics(
    model: Any, tokenizer: AnyTokenizer, examples: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Accuracy on every labeler's non-tied pairs, with a 95 % interval by conversation, beside the longer answer's.

    examples: as `encode_rankings` gives them, so that what is scored is cut as what was trained on.
    """
    flat = [row for example in examples for row in example["rows"]]
    scores = iter(score_rows(model, flat, tokenizer.pad_id))
    by_group = [[next(scores) for _ in example["rows"]] for example in examples]
    lengths = [[float(count) for count in example["num_words"]] for example in examples]
    all_ranks = [example["ranks"] for example in examples]
    conversations = [example["conversation"] for example in examples]
    accuracy, low, high, num_pairs = ranking_accuracy(by_group, all_ranks, conversations)
    longer = ranking_accuracy(lengths, all_ranks)[0]
    return {
        "accuracy": round(accuracy, 4),
        "accuracy_ci95": [round(low, 4), round(high, 4)],
        "pairs": num_pairs,
        "longer_answer_accuracy": round(longer, 4),
        "shorter_answer_accuracy": round(1 - longer, 4),
    }


def trainer_of(
    settings: RewardSettings,
    folder: str,
    tokenizer: AnyTokenizer,
    training: Sequence[RankedPrompt],
    work: Path,
    say: Callable[[str], None] = lambda line: None,
) -> RankingTrainer:
    """trl's trainer of a scalar model made of the policy in `folder`, set up; `work` takes its checkpoints.

    say: what was cut and left out.
    """
    device = best_device()
    policy = load_policy(folder)
    check_fits(tokenizer, policy, folder)
    check_causal(policy)
    check_trainable(policy)
    model = scalar_from_policy(policy)
    if settings.lora_rank and settings.muon_lr:
        raise InputError("reward: muon_lr is for whole matrices; with lora_rank leave it 0")
    max_length = within_context(model, settings.max_length)
    rankings, counts = tokenize_rankings(training, tokenizer, max_length, work, settings.skip_long)
    say(counts.line(max_length))
    if settings.probe_l2 and not last_checkpoint(work):
        fit_head(model.to(device), rankings, tokenizer.pad_id, settings.probe_l2)
    model = limit_trainable(model, settings.last_blocks, settings.lora_rank, head="score")
    if settings.lora_rank:
        check_trainable(model)
    divide(model, settings.shard, say)
    config = RewardConfig(
        **common_arguments(settings, work),
        per_device_train_batch_size=processes.rows_per_process(
            "prompts_per_batch", settings.prompts_per_batch
        ),
        warmup_steps=_warmup_steps(len(rankings), settings),
        max_length=None,
        save_strategy="no",  # but from time to time: stages.trainers.parts.TimedSaves
        logging_steps=10,
        disable_dropout=True,
    )
    optimizer = None
    if settings.muon_lr:
        optimizer = JointOptimizer(*muon_and_adamw(model.to(device), settings.lr, settings.muon_lr))
    return RankingTrainer(
        model=model,
        optimizers=(optimizer, None),
        args=config,
        train_dataset=rankings,
        data_collator=RankingCollator(tokenizer.pad_id),
        processing_class=tokenizer.fast(),
    )


def _warmup_steps(num_rankings: int, settings: RewardSettings) -> int:
    """Ten, less in a run of under a hundred steps, none in one so short that the first, whose rate is 0, would count."""
    steps = int(math.ceil(num_rankings / settings.prompts_per_batch) * settings.epochs)
    return min(10, steps // 10) if steps >= 20 else 0
