"""Stage 3: PPO against a reward (Ouyang et al. 2022, section 3.5), in the order of the paper.

`train` is the loop; `gather_experience` (ppo_experience.py) and `update` are its two halves. `PPOTrainer` runs it on
models and data in memory, `run` on those of a checkpoint store. Shapes: b completions of a part, T tokens of the longest.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rlhf.data import fingerprint, prompts_in
from rlhf.errors import InputError, TrainingError
from rlhf.inputs import model_of, prompts_of, published
from rlhf.learning.losses import policy_loss, value_loss
from rlhf.learning.metrics import MetricLog, TokenMeans, update_metrics
from rlhf.learning.passes import completion_logprobs, completion_values, text_logprobs
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Experience
from rlhf.learning.training import (
    autocast,
    best_device,
    load_state,
    save_state,
    seed_everything,
    set_threads,
    step_together,
    warmup,
)
from rlhf.machine import processes
from rlhf.machine.memory import FreedMemory
from rlhf.machine.threads import ThreadWatch
from rlhf.models.adapters import lora, save_plain
from rlhf.models.checkpoints import load_policy
from rlhf.models.recompute import blocks_run_again
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.store import Entry, Store, deciding, inputs_hash
from stages.ppo.experience import gather_experience, sample, with_lower_states
from stages.ppo.inputs import (
    PromptRow,
    any_tokenizer,
    joined,
    pretraining_rows,
    pretraining_text,
    prompt_order,
    prompt_rows,
    reward_sources,
    rewards_named,
)
from stages.ppo.learner import Learner, Pretraining, new_learner, summary
from stages.ppo.models import assembled
from stages.settings import PPOConfig, PPOSettings

MAX_SAMPLING_GAP = 0.1  # nats a token; measured: 1e-6 in float32, 1e-4 to 0.04 in bfloat16 (docs/lab-log.md)
UPDATE_METRICS = [
    "policy/loss", "policy/ratio", "policy/approx_kl", "policy/clip_fraction", "policy/sampling_gap",
    "value/loss", "value/clip_fraction", "ptx/loss",
]  # fmt: skip


def train(
    config: PPOConfig,
    learner: Learner,
    reference: Any | None,
    reward: Reward,
    prompts: Sequence[PromptRow],
    tokenizer: AnyTokenizer,
    *,
    pretraining: Pretraining | None = None,
    log: MetricLog,
    save: Callable[[], None] = lambda: None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Run PPO from the learner's iteration to the last one, which has fewer completions where episodes say so.

    reference: a frozen model, or None for the policy with its adapters off. prompts are drawn in a new random order
    each pass. save is called every save_every iterations, keep every keep_every ones. Raises TrainingError, with no weight changed by it, for a
    loss, gradient or score that is not finite.
    """
    num_iterations = -(-config.episodes // config.batch_size)
    steps = range(learner.iteration, num_iterations)
    bar = tqdm(
        steps, initial=learner.iteration, total=num_iterations, desc="ppo", disable=not processes.is_first()
    )
    watch, freed = ThreadWatch(), FreedMemory()
    for iteration in bar:
        batch_size = min(config.batch_size, config.episodes - iteration * config.batch_size)
        order = prompt_order(len(prompts), iteration * config.batch_size, batch_size, config.seed)
        rollout = sample(config, learner.policy, [prompts[i] for i in order], tokenizer, iteration)
        rollout = with_lower_states(config, learner, rollout)
        experience, metrics = gather_experience(config, learner, reference, reward, rollout)
        metrics["episodes"] = iteration * config.batch_size + batch_size
        bar.set_postfix(score=f"{metrics['reward/score']:.3f}", kl=f"{metrics['kl/sequence']:.3f}")
        if config.kl_budget_action == "stop" and 0 < config.kl_budget < metrics["kl/sequence"]:
            log.write(iteration, metrics)
            break  # before an update that would only lead farther away

        factor = warmup(iteration, config.warmup_iterations)
        learner.policy_optimizer.set_lr_factor(factor)
        learner.value_optimizer.set_lr_factor(factor)
        learning = [learner.policy, learner.value_model] if config.gradient_checkpointing else []
        with blocks_run_again(learning):
            metrics |= update(config, learner, experience, pretraining)
        metrics["policy/lr"] = config.lr * factor
        learner.beta.update(metrics["kl/sequence"], num_episodes=len(rollout))

        learner.iteration = iteration + 1
        log.write(iteration, metrics)
        watch.step()
        freed.step()
        if config.keep_every and (iteration + 1) % config.keep_every == 0 and iteration + 1 < num_iterations:
            keep()  # before the state, which says that this iteration is done
        if config.save_every and (iteration + 1) % config.save_every == 0:
            save()


def update(
    config: PPOConfig, learner: Learner, experience: Experience, pretraining: Pretraining | None
) -> dict[str, float]:
    """Inner epochs of clipped policy and value updates over shuffled minibatches; returns means over all of them."""
    policy, value_model = learner.policy.eval(), learner.value_model.eval()  # no dropout, as in the rollout
    means, norms = TokenMeans(), []
    minibatches = experience.shuffled(config.minibatch_size, config.inner_epochs, learner.generator)
    for step, minibatch in enumerate(minibatches):
        losses = torch.zeros(2, device=policy.device)
        for part in minibatch.select(processes.share(len(minibatch))).split(config.micro_batch_size):
            part = part.to(policy.device)
            old = part.rollout.logprobs
            with autocast(policy.device, config.bf16):
                logprobs = completion_logprobs(policy, part.rollout, config.temperature)  # (b, T)
                values = completion_values(value_model, part.rollout)  # (b, T)
            actor = policy_loss(logprobs, old, part.advantages, config.clip)  # (b, T)
            critic = value_loss(values, part.values, part.returns, config.value_clip)  # (b, T)
            # The whole minibatch's token count is the denominator: any split into parts gives one gradient.
            ((actor + config.value_coef * critic).sum() / minibatch.num_tokens).backward()
            losses += torch.stack([actor.detach().sum(), critic.detach().sum()])
            logged = update_metrics(logprobs, values, part, config.clip, config.value_clip)
            if step == 0:  # before any update both are the same policy's
                logged["policy/sampling_gap"] = (logprobs - old).abs()
            means.add(part.rollout.mask, {"policy/loss": actor, "value/loss": critic, **logged})
        if not torch.isfinite(processes.total(losses)).all():
            raise TrainingError(
                f"iteration {learner.iteration}: the loss is not finite; nothing was applied. Lower the learning rate"
            )
        if step == 0:
            check_sampler(means, learner.iteration)
        if pretraining is not None:
            num_rows = config.ptx_examples * len(minibatch)
            add_ptx_gradient(config, policy, pretraining.rows(learner.iteration, step, num_rows), means)
        processes.sum_gradients(policy.parameters())
        processes.sum_gradients(value_model.parameters())
        norms.append(step_together([learner.policy_optimizer, learner.value_optimizer], config.max_grad_norm))
        if learner.average:
            learner.average.update(policy)
    policy_norm, value_norm = torch.tensor(norms).mean(0).tolist()
    return means.means(UPDATE_METRICS, processes.total) | {
        "policy/grad_norm": policy_norm,
        "value/grad_norm": value_norm,
    }


def check_sampler(means: TokenMeans, iteration: int) -> None:
    """Raises TrainingError where the sampler gave other log-probabilities than a forward pass of the same policy."""
    gap = means.means(["policy/sampling_gap"], processes.total)["policy/sampling_gap"]
    if gap > MAX_SAMPLING_GAP:
        raise TrainingError(
            f"iteration {iteration}: log-probabilities from sampling are {gap:.2f} nats a token away from those of "
            "the training pass, so every ratio would be wrong; try bf16=off"
        )


def add_ptx_gradient(config: PPOConfig, policy: Any, rows: Tensor, means: TokenMeans) -> None:
    """PPO-ptx (Ouyang et al. 2022, eq. 2): γ times the mean loss per token of all pretraining rows (R, S) is added.

    The policy's own loss is a mean per token of the minibatch, too: γ weighs one kind of mean against the other,
    whatever the number and length of the rows, which come in parts of micro_batch_size.
    """
    rows, num_tokens = rows.to(policy.device), rows[:, 1:].numel()
    mine = processes.share(len(rows))
    for part in rows[mine.start : mine.stop].split(config.micro_batch_size) if mine else ():
        with autocast(policy.device, config.bf16):
            loss = -text_logprobs(policy, part)
        (config.ptx_coef * loss.sum() / num_tokens).backward()
        means.add(torch.ones_like(loss, dtype=torch.bool), {"ptx/loss": loss})


class PPOTrainer:
    """PPO on models and data in memory: a thin face over `train`.

    model: any causal language model; with peft_config, or as a PeftModel, only its adapters learn.
    processing_class, reward_processing_class: tokenizers of Hugging Face or ours; a reward model without one of its
    own reads the policy's tokens.
    reward_model: a one-label sequence classifier, a function (prompts, completions) → floats, or a list of them.
    train_dataset: rows with a column `prompt`, text or messages; or a list of prompts.
    ref_model: by default a frozen copy of model, or with peft_config the model without its adapters.
    value_model: by default a copy of the first reward model that reads the policy's tokens, else the policy's trunk
    with a new head.
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
        ref_model: Any = None,
        value_model: Any = None,
        reward_processing_class: Any = None,
        peft_config: Any = None,
        pretrain_dataset: Iterable[Any] | None = None,
        output_dir: str | Path | None = None,
        logging_dir: str | Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        processes.join()
        say = say if processes.is_first() else lambda line: None
        seed_everything(args.seed)
        self.args, self.tokenizer = args, any_tokenizer(processing_class)
        rewards = reward_sources(reward_model, reward_processing_class)
        models = assembled(
            model, ref_model, value_model, rewards, self.tokenizer, peft_config=peft_config, last_blocks=args.last_blocks, say=say,
        )  # fmt: skip
        model, self.reference = models.policy, models.reference
        for each in (model, self.reference, models.value_model, *(r.source for r in rewards if r.is_model)):
            if each is not None:
                each.to(best_device())
        self.reward = joined(rewards, self.tokenizer, args)
        self.prompts = prompt_rows(prompts_in(train_dataset), self.tokenizer, model, args.max_new_tokens)
        self.pretraining = pretraining_rows(args, self.tokenizer, pretrain_dataset, model)
        self.learner = new_learner(args, model, models.value_model, models.lower)
        self.log = MetricLog(Path(logging_dir) if logging_dir and processes.is_first() else None)
        self.state_file = Path(output_dir) / "state.pt" if output_dir else None
        self.resume(say)

    @property
    def model(self) -> Any:
        """The policy."""
        return self.learner.policy

    @property
    def value_model(self) -> Any:
        return self.learner.value_model

    def train(self) -> list[dict[str, float]]:
        """Train to the last iteration; returns every iteration's metrics, docs/ppo.md says what they mean."""
        train(
            self.args, self.learner, self.reference, self.reward, self.prompts, self.tokenizer,
            pretraining=self.pretraining, log=self.log, save=self.save_state, keep=self.keep_policy,
        )  # fmt: skip
        return self.log.history

    def save_model(self, folder: str | Path) -> None:
        """The policy into `folder`, adapters merged, with value/ and, where averaged or kept, ema/ and checkpoints/."""
        if processes.is_first():
            self.learner.save(self.tokenizer, Path(folder))
            self.log.save(Path(folder))
            if self.state_file and (kept := self.state_file.parent / "checkpoints").exists():
                shutil.copytree(kept, Path(folder) / "checkpoints", copy_function=os.link)

    def keep_policy(self) -> None:
        """The policy as it is now under checkpoints/ of output_dir, named by the episodes it has learned from."""
        if self.state_file and processes.is_first():
            episodes = self.learner.iteration * self.args.batch_size
            folder = self.state_file.parent / "checkpoints" / f"{episodes:06d}"
            save_plain(self.model, folder)
            self.tokenizer.save(folder)

    def save_state(self) -> None:
        """Write what an exact continuation needs to output_dir."""
        if self.state_file and processes.is_first():
            self.state_file.parent.mkdir(parents=True, exist_ok=True)
            state = self.learner.state_dict()
            save_state(self.state_file, state | {"args": deciding(self.args), "history": self.log.history})

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the state in output_dir, if there is one. Raises InputError for one of other settings."""
        state = load_state(self.state_file) if self.state_file else None
        if state is None:
            return
        if state["args"] != deciding(self.args):
            raise InputError(
                f"{self.state_file}: the state of a run with other settings; choose another output_dir"
            )
        self.learner.load_state_dict(state)
        self.log.history = state["history"]
        say(f"ppo: continuing at iteration {self.learner.iteration}")


def run(settings: PPOSettings, store: Store, say: Callable[[str], None] = print) -> Entry:
    """PPO from the SFT model against rewards, by name, into the store; a run that was stopped goes on by itself."""
    processes.join()
    say = say if processes.is_first() else lambda line: None
    policy_folder, sft = model_of(store, settings.policy)
    policy = load_policy(policy_folder)
    rewards, reward_parents, reward_data = rewards_named(
        store, settings.reward, policy if settings.lora_rank else None, say
    )
    prompts, data = prompts_of(settings.prompts, "train", settings.episodes, settings.seed + 1)
    texts = pretraining_text(settings.ptx_data, settings.seed) if settings.ptx_coef else None
    if texts:
        data["pretraining text"] = fingerprint(texts)
    inputs: dict[str, Any] = {
        "parents": ({"sft": sft} if sft else {}) | reward_parents,
        "settings": settings,
        "data": data | reward_data,
        "seed": settings.seed,
    }
    key = inputs_hash("ppo", **inputs)
    if found := store.find("ppo", key):
        say(f"ppo: {found.ref} is there already")
        return found
    set_threads(0)
    trainer = PPOTrainer(
        settings, processing_class=load_tokenizer(policy_folder), model=policy, reward_model=rewards,
        train_dataset=prompts, peft_config=lora(settings.lora_rank) if settings.lora_rank else None,
        pretrain_dataset=texts, output_dir=store.work_folder("ppo", key), logging_dir=store.root / "logs" / f"ppo-{settings.name}", say=say,
    )  # fmt: skip
    started = time.monotonic()
    trainer.train()
    if processes.is_first():
        with store.new("ppo", settings.name, **inputs) as writer:
            trainer.save_model(writer.path)
            writer.metrics = summary(trainer.log.history, time.monotonic() - started)
        store.discard_work("ppo", key)
    return published(store, "ppo", inputs)
