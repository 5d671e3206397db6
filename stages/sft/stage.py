"""Stage 1: supervised fine-tuning on demonstrations, by trl's SFTTrainer; the loss counts the response only."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trl import SFTConfig

from rlhf.data import Demonstration, Prompt, Rows, as_messages, fingerprint, read_demonstrations, read_options
from rlhf.errors import InputError
from rlhf.inputs import Located, entry_for_all, limit_trainable, locate_parent, within_context
from rlhf.learning.metrics import MetricLog
from rlhf.learning.passes import head_weight
from rlhf.learning.training import seed_everything, set_dropout
from rlhf.machine import processes
from rlhf.machine.devices import best_device, set_threads
from rlhf.models.adapters import save_plain
from rlhf.models.checkpoints import check_fits, load_policy, load_scalar
from rlhf.models.foreign_tokenizer import is_told_apart
from rlhf.models.tokenizer import AnyTokenizer, load_chat_tokenizer, load_tokenizer
from rlhf.sampling.trial import check_causal, check_trainable
from rlhf.sharding import refuse_launchers_sharding, whole
from rlhf.splits import held_out
from rlhf.starter.demonstrations import demonstrations as starter_demonstrations
from rlhf.store import Entry, Store, inputs_hash
from stages.reading import accounts_of, prefixed
from stages.settings import SFTSettings
from stages.sft.kept import keep_demonstrations
from stages.sft.tokens import Extent, tokenize_demonstrations
from stages.sft.trainer import DemonstrationTrainer, mean_reward
from stages.stopwatch import Stopwatch
from stages.trainers.parts import common_arguments, divide, train_with_progress

VALIDATION_SHARE = 0.1


def run(
    settings: SFTSettings,
    store: Store,
    say: Callable[[str], None] = print,
    read: Sequence[dict[str, Any]] = (),
) -> Entry:
    """Fine-tune a base model on demonstrations into the store; returns the entry already there for the same inputs.

    read: accounts of the sources that the data were made of, for the manifest.
    """
    refuse_launchers_sharding("sft", "it divides the weights by itself, shard = on")
    processes.join_process_group()
    say = say if processes.is_main_process() else lambda line: None
    training, validation = _demonstrations(settings, prefixed("sft", say))
    base = locate_parent(store, settings.base, "base")
    reward = locate_parent(store, settings.reward, "reward") if settings.reward else Located("", {}, {})
    folder = base.folder
    inputs: dict[str, Any] = {
        "parents": base.parents | reward.parents,
        "settings": settings,
        "data": _fingerprints(settings, training, validation) | base.data | reward.data,
        "seed": settings.seed,
    }
    if found := store.find("sft", **inputs):
        say(f"sft: {found.ref} is there already")
        return found
    set_threads(0)
    seed_everything(settings.seed)
    tokenizer = load_chat_tokenizer(folder, settings.template_kwargs)
    work = store.work_folder("sft", inputs_hash("sft", **inputs))
    log = MetricLog(store.root / "logs" / f"sft-{settings.name}" if processes.is_main_process() else None)
    with Stopwatch(work) as watch:
        trainer = trainer_of(
            settings, folder, tokenizer, training, validation, work, _loaded_reward(reward.folder), say
        )
        train_with_progress(trainer, "sft", log, work)
    best, at = trainer.state.best_metric, trainer.state.best_global_step
    loss = next(
        row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row and row["step"] == at
    )
    with whole(trainer.model) as model:
        if processes.is_main_process():
            with store.new("sft", settings.name, **inputs) as writer:
                save_plain(model, writer.path)
                tokenizer.save(writer.path)
                log.save(writer.path)
                keep_demonstrations(training, writer.path)
                sources = [training, *([validation] if settings.validation_data else [])]
                writer.read = [*read, *accounts_of(*sources)]
                writer.metrics = {
                    "validation_loss": round(loss, 4),
                    **({"validation_reward": round(float(best), 4)} if settings.reward else {}),
                    "demonstrations": len(training),
                    "train_s": round(watch.seconds, 1),
                }
            store.discard_work("sft", inputs_hash("sft", **inputs))
    return entry_for_all(store, "sft", inputs)


def _fingerprints(
    settings: SFTSettings, training: Sequence[Demonstration], validation: Sequence[Demonstration]
) -> dict[str, str]:
    """Of what decides the result: the rows, and those of a validation file, by which the best weights are chosen."""
    rows = {settings.data or "starter demonstrations": training}
    if settings.validation_data:
        rows[f"validation {settings.validation_data}"] = validation
    return {
        name: given.fingerprint() if isinstance(given, Rows) else fingerprint([asdict(row) for row in given])
        for name, given in rows.items()
    }


def _demonstrations(
    settings: SFTSettings, say: Callable[[str], None]
) -> tuple[Sequence[Demonstration], Sequence[Demonstration]]:
    """Rows to learn from and rows to validate on, which share no conversation where they are of one file."""
    if settings.data is None:
        num_validation = max(20, int(VALIDATION_SHARE * settings.num_demonstrations))
        return (
            starter_demonstrations("train", settings.num_demonstrations, settings.seed),
            starter_demonstrations("validation", num_validation, settings.seed),
        )
    options = read_options(settings, say)
    rows = read_demonstrations(settings.data, options=options)
    if settings.validation_data:
        return rows, read_demonstrations(settings.validation_data, options=options)
    try:
        return held_out(rows, lambda row: row.prompt, VALIDATION_SHARE)
    except (
        InputError
    ):  # many answers to one prompt: told apart by the answer, there being no other conversation
        pass
    try:
        return held_out(rows, lambda row: row.completion, VALIDATION_SHARE)
    except InputError as error:
        raise InputError(f"{settings.data}: {error}") from None


def _say_if_it_cannot_end(model: Any, tokenizer: AnyTokenizer, say: Callable[[str], None]) -> None:
    head = head_weight(model)
    if head is None or head.requires_grad or is_told_apart(tokenizer.eos_id, head):
        return
    end = tokenizer.decode([tokenizer.eos_id], keep_special=True)
    say(
        f"sft: answers would not end: {end}, which closes them, has the same row of the head as many other tokens, and the "
        "head is not trained; train the whole model (no last_blocks, no lora_rank), or give it a chat template of tokens "
        "that it knows"
    )


def trainer_of(
    settings: SFTSettings,
    folder: Path | str,
    tokenizer: AnyTokenizer,
    training: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    work: Path,
    reward: Any,
    say: Callable[[str], None],
) -> DemonstrationTrainer:
    """trl's trainer of the model in `folder`, set up; reward picks the epoch where there is one."""
    model = load_policy(folder)
    check_fits(tokenizer, model, folder)
    check_causal(model)
    if model.generation_config is not None:  # so that other tools, too, end an answer where it ends
        model.generation_config.eos_token_id = sorted(tokenizer.stop_ids)
    set_dropout(model, settings.dropout)
    model = limit_trainable(model, settings.last_blocks, settings.lora_rank)
    check_trainable(model)
    _say_if_it_cannot_end(model, tokenizer, say)
    divide(model, settings.shard, prefixed("sft", say))
    max_length = within_context(model, settings.max_length)
    config = SFTConfig(
        **common_arguments(settings, work),
        per_device_train_batch_size=processes.rows_per_process("batch_size", settings.batch_size),
        per_device_eval_batch_size=settings.batch_size,
        max_length=max_length,
        packing=settings.packing,
        # Rows are tokens, cut and with labels: trl would write them all anew. Only packing is still its own to do.
        dataset_kwargs={"skip_prepare_dataset": not settings.packing},
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_reward" if reward else "eval_loss",
        greater_is_better=reward is not None,
        logging_steps=5,
    )
    prompts = _answerable(validation, tokenizer, max_length) if reward else []
    extent = Extent(max_length, settings.turns, settings.skip_long)
    rows, counts = tokenize_demonstrations(training, tokenizer, extent, Path(work))
    say(f"sft: {counts.line(max_length)}")
    return DemonstrationTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        eval_dataset=tokenize_demonstrations(validation, tokenizer, extent, Path(work))[0],
        processing_class=tokenizer.fast(),
        score=None if reward is None else lambda policy: mean_reward(policy, tokenizer, prompts, reward),
    )


def _answerable(rows: Sequence[Demonstration], tokenizer: AnyTokenizer, max_length: int) -> list[Prompt]:
    """The prompts that leave room for an answer. Raises InputError where none does."""
    prompts: list[Prompt] = [as_messages(row.prompt) for row in rows]
    found = [prompt for prompt in prompts if len(tokenizer.encode_prompt(prompt)) < max_length]
    if not found:
        raise InputError(
            f"sft: no validation prompt leaves room for an answer in {max_length} tokens to be rewarded"
        )
    return found


def _loaded_reward(folder: str) -> tuple[Any, AnyTokenizer] | None:
    return (load_scalar(folder).to(best_device()), load_tokenizer(folder)) if folder else None
