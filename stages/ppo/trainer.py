"""Stage 3: PPO against a reward, on models and data in memory (`PPOTrainer`) or on those of a checkpoint store (`run`)."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlhf.data import fingerprint, prompt_rows_in, read_options
from rlhf.durable import hold, link_or_copy
from rlhf.errors import InputError
from rlhf.inputs import entry_for_all, locate_parent
from rlhf.learning.metrics import MetricLog
from rlhf.learning.prompts import EncodedPrompt, encode_prompts
from rlhf.learning.reward_sources import (
    combined_reward,
    load_rewards,
    parse_weights,
    reward_sources,
    shortest_context,
)
from rlhf.learning.training import load_state, save_state, seed_everything
from rlhf.machine import processes
from rlhf.machine.devices import set_threads
from rlhf.models.adapters import lora
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import any_tokenizer, load_tokenizer
from rlhf.rollout_server import RolloutServers
from rlhf.settings import hashed_settings
from rlhf.sharding import gathered, refuse_launchers_sharding
from rlhf.state_parts import StateFile
from rlhf.store import Entry, Store, inputs_hash
from stages.ppo.ahead import Sampling
from stages.ppo.checks import check
from stages.ppo.given import check_given
from stages.ppo.identity import adapters_of, check_same_run, identity_of, prompts_hash, text_hash
from stages.ppo.learner import new_learner, summary
from stages.ppo.longer import (
    BEST,
    EARLIER_BEST,
    STATE,
    begin_where_it_ended,
    check_parents,
    first_episodes,
    keep_earlier_best,
    settings_of_longer_run,
)
from stages.ppo.loop import train
from stages.ppo.models import assemble_models, is_to_be_divided, place
from stages.ppo.pretraining import pretraining_rows, pretraining_text
from stages.ppo.watching.callbacks import Callbacks
from stages.ppo.watching.evaluation import evaluate, prompts_of
from stages.ppo.watching.samples import SampleLog
from stages.reading import accounts_of, prefixed
from stages.settings import PPOConfig, PPOSettings
from stages.stopwatch import Stopwatch


class PPOTrainer:
    """PPO on models and data in memory: a thin face over `train`.

    model: any causal language model; with peft_config, or as a PeftModel, only its adapters learn.
    processing_class, reward_processing_class: tokenizers of Hugging Face or ours; a reward model without one of its
    own reads the policy's tokens.
    reward_model: a one-label sequence classifier, a function (prompts, completions) → floats or None, or a list of them;
    functions written for trl are taken as they are (`RewardFunction`).
    train_dataset: rows with a column `prompt`, text or messages; or a list of prompts. A function gets the other columns
    that it has parameters for.
    ref_model: by default a frozen copy of model, or with peft_config the model without its adapters.
    value_model: by default a copy of the first reward model that reads the policy's tokens, else the policy's trunk
    with a new head.
    eval_dataset: prompts held out, for eval_every. callbacks: of transformers, told of this run's events (`Callbacks`).
    pretrain_dataset: texts for PPO-ptx. output_dir: where training state goes; a run that finds its own continues.
    """

    def __init__(
        self,
        args: PPOConfig,
        *,
        processing_class: Any,
        model: Any,
        reward_model: Any,
        train_dataset: Iterable[Any],
        eval_dataset: Iterable[Any] | None = None,
        ref_model: Any = None,
        value_model: Any = None,
        reward_processing_class: Any = None,
        peft_config: Any = None,
        pretrain_dataset: Iterable[Any] | None = None,
        output_dir: str | Path | None = None,
        logging_dir: str | Path | None = None,
        callbacks: Sequence[Any] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        check(args)
        refuse_launchers_sharding("ppo", "it divides the weights by itself, shard = on")
        processes.join_process_group()
        say = say if processes.is_main_process() else lambda line: None
        seed_everything(args.seed)
        self.args, self.tokenizer = args, any_tokenizer(processing_class, model)
        rewards = reward_sources(reward_model, reward_processing_class)
        readers = check_given(self.tokenizer, model, ref_model, value_model, rewards)
        self.state_file = held_state_file(Path(output_dir)) if output_dir else None
        given = {"policy": model, "reference": ref_model, "value model": value_model}
        self.identity = identity_of(given, rewards) if self.state_file else {}
        is_divided = is_to_be_divided(args, model, rewards, peft_config)
        self.context, self.whose = shortest_context(readers)
        self.prompts = self._encoded("train_dataset", train_dataset, say)
        models = assemble_models(
            model, ref_model, value_model, rewards, self.tokenizer, peft_config=peft_config, last_blocks=args.last_blocks,
            needs_values=args.advantages == "gae", is_divided=is_divided, bf16=args.bf16, say=say,
        )  # fmt: skip
        self.reward = combined_reward(
            rewards, self.tokenizer, bf16=args.bf16, combine=args.reward_combine,
            weights=parse_weights(args.reward_weights), pessimism=args.pessimism,
        )  # fmt: skip
        place(models, rewards, is_divided, args.bf16, say)
        model, self.reference = models.policy, models.reference
        self.sampling = Sampling(args, self.prompts, self.tokenizer, servers_of(args))
        self.pretraining = pretraining_rows(args, self.tokenizer, pretrain_dataset, model)
        self.learner = new_learner(args, model, models.value_model, models.lower)
        self.log = MetricLog(
            made_folder("logging_dir", Path(logging_dir))
            if logging_dir and processes.is_main_process()
            else None
        )
        self._watch(eval_dataset, callbacks, output_dir, logging_dir, say)
        self.identity |= {
            "settings": hashed_settings(args),
            "prompts": prompts_hash(self.prompts, rewards),
            "evaluation prompts": prompts_hash(self.eval_prompts, rewards),
            "pretraining text": text_hash(self.pretraining),
            "adapters": adapters_of(model, models.value_model),
        }
        self.resume(say)

    def _watch(
        self,
        eval_dataset: Any,
        callbacks: Sequence[Any],
        output_dir: Any,
        logging_dir: Any,
        say: Callable[[str], None],
    ) -> None:
        """Who sees the run: a file of samples, evaluations, callbacks."""
        args, folder = self.args, Path(output_dir) if output_dir else None
        if args.samples_every and not (output_dir or logging_dir):
            raise InputError("samples_every: give output_dir or logging_dir, where the samples are to go")
        if bool(args.eval_every) != (eval_dataset is not None):
            raise InputError("eval_every and eval_dataset belong together: give both, or none of them")
        self.samples = SampleLog(folder and folder / "samples.jsonl", self.log, self.tokenizer)
        self.eval_prompts = [] if eval_dataset is None else self._encoded("eval_dataset", eval_dataset, say)
        for name in ("keep_every", "eval_every"):
            if getattr(args, name) and not output_dir:
                raise InputError(f"{name}: give output_dir, where the policies are to be kept")
        self.callbacks = Callbacks(
            callbacks, args, folder, model=self.model,
            processing_class=self.tokenizer,
        )  # fmt: skip

    def _encoded(self, name: str, rows: Iterable[Any], say: Callable[[str], None]) -> list[EncodedPrompt]:
        return encode_prompts(
            prompt_rows_in(rows, name), self.tokenizer, self.context, self.args.max_new_tokens, self.args.skip_long,
            prefixed("ppo: to evaluate on" if name == "eval_dataset" else "ppo", say), self.whose,
        )  # fmt: skip

    @property
    def model(self) -> Any:
        """The policy."""
        return self.learner.policy

    @property
    def value_model(self) -> Any:
        """The value model, which learns beside the policy."""
        return self.learner.value_model

    def train(self) -> list[dict[str, float]]:
        """Train to the last iteration; returns every iteration's metrics, docs/ppo.md says what they mean."""
        train(
            self.args, self.learner, self.reference, self.reward, self.sampling,
            pretraining=self.pretraining, log=self.log, save=self.save_state, keep=self.keep_policy,
            show=self.samples.write if processes.is_main_process() else lambda iteration, judged: None,
            evaluate=self.evaluate, callbacks=self.callbacks,
        )  # fmt: skip
        if self.state_file:
            self.state_file.wait()
        return self.log.history

    def evaluate(self) -> dict[str, float]:
        """Numbers of the policy as it is now on eval_dataset; the best policy so far is kept under best/ of output_dir."""
        if not self.eval_prompts:
            raise InputError(
                "there are no prompts to evaluate on; give eval_dataset and eval_every to PPOTrainer"
            )
        self.sampling.wait()
        found = evaluate(
            self.args, self.learner, self.reference, self.reward, self.eval_prompts, self.tokenizer, self.sampling.servers
        )  # fmt: skip
        if found["eval/objective"] > self.learner.best:
            if self.state_file:
                folder = self.state_file.path.parent
                if processes.is_main_process():
                    keep_earlier_best(folder, self.args, self.learner)
                self.learner.save_policy(
                    self.tokenizer, folder / BEST if processes.is_main_process() else None
                )
            self.learner.best = found["eval/objective"]
        return found

    def save_model(self, folder: str | Path | None) -> None:
        """The policy into `folder`, adapters merged, with value/ and, where averaged or kept, ema/ and checkpoints/.

        Every process calls it; the first one writes.
        """
        into = made_folder("save_model", Path(folder)) if folder and processes.is_main_process() else None
        self.learner.save(self.tokenizer, into)
        if self.args.keep_state:
            self._keep_state(into / STATE if into else None)
        if into:
            self.log.save(into)
            for name in ("checkpoints", BEST, *([EARLIER_BEST] if self.args.keep_state else [])):
                if self.state_file and (kept := self.state_file.path.parent / name).exists():
                    shutil.copytree(kept, into / name, copy_function=link_or_copy, dirs_exist_ok=True)
            if self.samples.path and self.samples.path.exists():
                shutil.copy(self.samples.path, into)

    def keep_policy(self) -> None:
        """The policy as it is now under checkpoints/ of output_dir, named by the episodes it has learned from."""
        if self.state_file:
            episodes = self.learner.iteration * self.args.batch_size
            folder = self.state_file.path.parent / "checkpoints" / f"{episodes:06d}"
            self.learner.save_policy(self.tokenizer, folder if processes.is_main_process() else None)

    def save_state(self) -> None:
        """Write what an exact continuation needs to output_dir; every process calls it.

        Of sharded models each writes its part, while training goes on.
        """
        if self.state_file:
            self.state_file.save(self.state_dict(), len(self.log.history))

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs; with weights and moments as they are divided between processes."""
        own = {"ahead": self.sampling.state_dict(), "identity": self.identity, "history": self.log.history}
        return self.learner.state_dict() | own

    def _keep_state(self, file: Path | None) -> None:
        state = gathered(self.state_dict())
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_state(file, state)

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the state in output_dir, if there is one. Raises InputError for one of another run."""
        if not self.state_file or (state := load_state(self.state_file.path)) is None:
            return
        check_same_run(self.state_file.path, state.get("identity"), self.identity)
        self.load_training_state(state)
        if processes.is_main_process():
            self.samples.rewind(len(self.log.history))
        say(f"ppo: continuing at iteration {self.learner.iteration}")

    def load_training_state(self, state: dict[str, Any] | None) -> None:
        """Continue where the run of this state was, which may be another's."""
        if state is not None:
            self.learner.load_state_dict(state)
            self.sampling.load_state_dict(state.get("ahead"))
            self.log.history = state["history"]


def held_state_file(folder: Path) -> StateFile:
    """The file of a run's state in its folder, which is made and kept to this run."""
    if processes.is_main_process():
        hold(made_folder("output_dir", folder).absolute())
    return StateFile(folder / "state.pt")


def made_folder(name: str, folder: Path) -> Path:
    """The folder, made where it was not. Raises InputError by the name of the argument where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"{name}: {folder}: {problem.strerror}; name another folder") from None
    return folder


def servers_of(config: PPOConfig) -> RolloutServers | None:
    """The servers that draw the completions, where they do."""
    from_servers = config.sampler == "vllm"
    return RolloutServers(config.sampler_urls.split(","), config.sampler_folder) if from_servers else None


def run(
    settings: PPOSettings,
    store: Store,
    say: Callable[[str], None] = print,
    read: Sequence[dict[str, Any]] = (),
) -> Entry:
    """PPO from the SFT model against rewards, by name, into the store; a run that was stopped goes on by itself.

    read: accounts of the sources that the prompts were made of, for the manifest.
    """
    extended = store.resolve(settings.extend) if settings.extend else None
    if extended:
        settings = settings_of_longer_run(settings, extended)
    check(settings)
    processes.join_process_group()
    say = say if processes.is_main_process() else lambda line: None
    sft = locate_parent(store, settings.policy, "sft")
    policy = load_policy(sft.folder)
    rewards, reward_parents, reward_data = load_rewards(
        store, settings.reward, policy if settings.lora_rank else None, say
    )
    options = read_options(settings, prefixed("ppo", say))
    prompts, eval_prompts, data = prompts_of(settings, first_episodes(store, settings), options)
    texts = pretraining_text(settings.ptx_data, settings.seed) if settings.ptx_coef else None
    if texts:
        data["pretraining text"] = fingerprint(texts)
    inputs: dict[str, Any] = {
        "parents": sft.parents | reward_parents | ({"extended": extended} if extended else {}),
        "settings": settings,
        "data": data | sft.data | reward_data,
        "seed": settings.seed,
    }
    if extended:
        check_parents(extended, sft.parents | reward_parents, sft.data | reward_data)
    if found := store.find("ppo", **inputs):
        say(f"ppo: {found.ref} is there already")
        return found
    set_threads(0)
    key = inputs_hash("ppo", **inputs)
    work = store.work_folder("ppo", key)
    trainer = PPOTrainer(
        settings, processing_class=load_tokenizer(sft.folder, settings.template_kwargs), model=policy, reward_model=rewards,
        train_dataset=prompts, eval_dataset=eval_prompts, peft_config=lora(settings.lora_rank) if settings.lora_rank else None,
        pretrain_dataset=texts, output_dir=work, logging_dir=store.root / "logs" / f"ppo-{settings.name}", say=say,
    )  # fmt: skip
    if extended and trainer.learner.iteration == 0:
        _go_on_from(extended, trainer, work, say)
    with Stopwatch(work) as watch:
        trainer.train()
    if processes.is_main_process():
        with store.new("ppo", settings.name, **inputs) as writer:
            trainer.save_model(writer.path)
            writer.read = [*read, *accounts_of(prompts, texts or ())]
            writer.metrics = summary(trainer.log.history, watch.seconds)
        store.discard_work("ppo", key)
    else:
        trainer.save_model(None)
    return entry_for_all(store, "ppo", inputs)


def _go_on_from(entry: Entry, trainer: PPOTrainer, work: Path, say: Callable[[str], None]) -> None:
    """Let a trainer that has done nothing yet go on where the finished run of an entry ended."""
    trainer.load_training_state(begin_where_it_ended(entry, work))
    if trainer.args.keep_every and trainer.learner.iteration % trainer.args.keep_every == 0:
        trainer.keep_policy()  # which the shorter run did not, being it
    say(f"ppo: {entry.ref} goes on at iteration {trainer.learner.iteration}")
