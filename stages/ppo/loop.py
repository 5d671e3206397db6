"""PPO in the order of the paper (Ouyang et al. 2022, section 3.5; Schulman et al. 2017): sample, score, update.

Shapes: b completions of a part, T tokens of the longest.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerControl

from rlhf.errors import TrainingError
from rlhf.learning.losses import policy_loss, value_clip_fraction, value_loss
from rlhf.learning.metrics import MetricLog, TokenMeans, update_metrics
from rlhf.learning.optimizers import step_together
from rlhf.learning.passes import completion_logprobs, completion_values, text_logprobs
from rlhf.learning.rewards import Reward
from rlhf.learning.rl import importance_weights, kl_k3
from rlhf.learning.rollout import Experience
from rlhf.learning.training import decay, warmup
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.machine.memory import FreedMemory
from rlhf.machine.threads import ThreadWatch
from rlhf.models.recompute import blocks_run_again
from rlhf.sharding import is_sharded, parts_of_all, run
from stages.ppo.ahead import Sampling
from stages.ppo.checks import truncates
from stages.ppo.experience import (
    Judged,
    gather_experience,
    judge,
    sampling_gap,
    with_lower_states,
)
from stages.ppo.learner import Learner
from stages.ppo.pretraining import Pretraining
from stages.ppo.watching.callbacks import Callbacks
from stages.settings import PPOConfig

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
    sampling: Sampling,
    *,
    pretraining: Pretraining | None = None,
    log: MetricLog,
    save: Callable[[], None] = lambda: None,
    keep: Callable[[], None] = lambda: None,
    show: Callable[[int, Judged], None] = lambda iteration, judged: None,
    evaluate: Callable[[], dict[str, float]] = dict,
    callbacks: Callbacks,
) -> None:
    """Run PPO from the learner's iteration to the last one, which has fewer completions where episodes say so.

    reference: a frozen model, or None for the policy with its adapters off. save is called every save_every iterations and
    where the run ends early, keep every keep_every ones, show with what was sampled every samples_every ones.
    Raises TrainingError, with no weight changed by it, for a loss, gradient or score that is not finite.
    """
    bar = progress_bar(first_iteration(config, learner, log), config.num_iterations)
    watch, freed = ThreadWatch(), FreedMemory()
    callbacks.start(log.history, learner.best)
    for iteration in bar:
        callbacks.begin(iteration)
        rollout = sampling.rollout(learner.policy, iteration)
        freed.step()
        judged = judge(config, learner, reference, reward, with_lower_states(config, learner, rollout))
        experience, metrics = gather_experience(config, learner, reward, judged)
        freed.step()
        metrics["episodes"] = iteration * config.batch_size + len(rollout)
        if config.samples_every and iteration % config.samples_every == 0:
            show(iteration, judged)
        bar.set_postfix(score=f"{metrics['reward/score']:.3f}", kl=f"{metrics['kl/sequence']:.3f}")
        if config.kl_budget_action == "stop" and 0 < config.kl_budget < metrics["kl/sequence"]:
            log.write(iteration, metrics)
            if config.save_every:
                save()
            break  # before an update that would only lead farther away

        metrics["policy/lr"] = set_learning_rates(config, learner, iteration)
        with blocks_run_again(trained_models(learner) if config.gradient_checkpointing else []):
            metrics |= update(config, learner, experience, pretraining, freed)
        if policy_learns(config, iteration):
            learner.beta.update(metrics["kl/sequence"], num_episodes=len(rollout))
        done = learner.iteration = iteration + 1
        callbacks.end(iteration, metrics["episodes"])
        if callbacks.control.should_evaluate or should_evaluate(config, done):
            metrics |= evaluate()
        log.write(iteration, metrics)
        callbacks.log(metrics)
        watch.step()
        freed.step()
        save_what_is_due(config, done, callbacks, save, keep)
        if callbacks.control.should_training_stop:
            break
    callbacks.tell("on_train_end")


def first_iteration(config: PPOConfig, learner: Learner, log: MetricLog) -> int:
    """The iteration to go on with; none is left where the last one told has no update: its KL budget ended the run."""
    is_over = log.history and "policy/lr" not in log.history[-1]
    return config.num_iterations if is_over else learner.iteration


def progress_bar(first: int, num_iterations: int) -> "tqdm[int]":
    """The iterations from `first` on, shown by the main process."""
    is_silent = not processes.is_main_process()
    steps = range(first, num_iterations)
    return tqdm(steps, "ppo", total=num_iterations, initial=first, disable=is_silent)


def save_what_is_due(
    config: PPOConfig, num_done: int, callbacks: Callbacks, save: Callable[[], None], keep: Callable[[], None]
) -> None:
    """After so many iterations: the policy every keep_every ones, and the state where `should_save` says so."""
    if config.keep_every and num_done % config.keep_every == 0 and num_done < config.num_iterations:
        keep()  # before the state, which says that this iteration is done
    if should_save(config, num_done, callbacks.control):
        save()
        callbacks.tell("on_save")


def should_save(config: PPOConfig, num_done: int, control: TrainerControl) -> bool:
    """Whether the state is written after so many iterations: every save_every, and where a callback asks or ends the run."""
    if control.should_save or not config.save_every:
        return control.should_save
    return control.should_training_stop or num_done % config.save_every == 0


def should_evaluate(config: PPOConfig, num_done: int) -> bool:
    """Whether held-out prompts are measured after so many iterations: every eval_every, and after the last."""
    return bool(config.eval_every) and (
        num_done % config.eval_every == 0 or num_done == config.num_iterations
    )


def set_learning_rates(config: PPOConfig, learner: Learner, iteration: int) -> float:
    """Warm-up and decay; the policy's warm-up begins where it begins to learn. Returns its learning rate, until then 0."""
    decayed = decay(config.lr_decay, iteration, config.num_iterations)
    policy, value = (
        decayed * warmup(max(0, begun), config.warmup_iterations)
        for begun in (iteration - config.value_warmup_iterations, iteration)
    )
    learner.set_lr_factors(policy, value)
    return config.lr * policy if policy_learns(config, iteration) else 0.0


def policy_learns(config: PPOConfig, iteration: int) -> bool:
    """Whether the policy does not wait for its value model any more."""
    return iteration >= config.value_warmup_iterations


def trained_models(learner: Learner) -> list[Any]:
    """Policy and, where there is one, value model."""
    return [model for model in (learner.policy, learner.value_model) if model is not None]


def update(
    config: PPOConfig,
    learner: Learner,
    experience: Experience,
    pretraining: Pretraining | None,
    freed: FreedMemory,
) -> dict[str, float]:
    """Inner epochs of clipped policy and value updates over shuffled minibatches; returns means over all of them.

    Raises TrainingError where the loss is not finite, or the sampler's log-probabilities are not those of training.
    """
    policy = learner.policy.eval()  # no dropout, as in the rollout
    is_learning = policy_learns(config, learner.iteration)
    optimizers = {"policy": learner.policy_optimizer} if is_learning else {}
    if learner.value_optimizer is not None:
        optimizers["value"] = learner.value_optimizer
    means, norms = TokenMeans(), []
    minibatches = experience.shuffled(config.minibatch_size, config.inner_epochs, learner.generator)
    for step, minibatch in enumerate(minibatches):
        losses = torch.zeros(2, device=policy.device)
        for part, is_real in local_micro_batches(config, policy, minibatch):
            part = part.to(policy.device)
            actor, critic, logged = losses_of(config, learner, part, with_gap=step == 0)  # (b, T)
            if not is_learning:
                actor = actor.detach()
            # The whole minibatch's token count is the denominator: any split into parts gives one gradient.
            loss = (actor + config.value_coef * critic).sum() / minibatch.num_tokens
            (loss if is_real else 0 * loss).backward()
            if not is_real:
                continue
            losses += torch.stack([actor.detach().sum(), critic.detach().sum()])
            means.add(part.rollout.mask, logged)
        if not torch.isfinite(processes.sum_over_processes(losses)).all():
            raise TrainingError(
                f"iteration {learner.iteration}: the loss is not finite; nothing was applied. Lower the learning rate"
            )
        if step == 0 and not experience.rollout.staleness:
            check_sampler(means, learner.iteration)
        if pretraining is not None and is_learning:
            num_rows = config.ptx_examples * len(minibatch)
            add_ptx_gradient(config, policy, pretraining.rows(learner.iteration, step, num_rows), means)
        for model in trained_models(learner):
            if not is_sharded(model):
                processes.sum_gradients(model.parameters())
        norms.append(step_together(list(optimizers.values()), config.max_grad_norm))
        if learner.average:
            learner.average.update(policy)
        freed.step()
    each_norm = torch.tensor(norms).mean(0).tolist() if norms else []
    return means.means(UPDATE_METRICS) | {
        f"{name}/grad_norm": norm for name, norm in zip(optimizers, each_norm, strict=False)
    }


def local_micro_batches(
    config: PPOConfig, policy: Any, minibatch: Experience
) -> Iterator[tuple[Experience, bool]]:
    """This process's parts of a minibatch. Of sharded models all processes take equally many, some an idle one.

    An idle part is a row of another's, whose loss is to count nothing; without it the others would wait for ever.
    """

    def parts(rank: int | None = None) -> list[Experience]:
        return minibatch.select(processes.shard(len(minibatch), rank)).split(config.micro_batch_size)

    own = parts()
    yield from ((part, True) for part in own)
    if is_sharded(policy):
        for _ in range(max(len(parts(rank)) for rank in range(processes.world_size())) - len(own)):
            yield minibatch.select([0]), False


def losses_of(
    config: PPOConfig, learner: Learner, part: Experience, *, with_gap: bool
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The losses of policy and value model, zeros without one, and what is logged, all per token (b, T).

    with_gap: before any update, when policy and sampler are the same.
    """
    policy, value_model, old = learner.policy, learner.value_model, part.rollout.logprobs
    with autocast(policy.device, config.bf16):
        if config.entropy_coef:
            logprobs, entropies = run(
                policy, completion_logprobs, part.rollout, config.temperature, with_entropy=True
            )
        else:
            logprobs, entropies = run(policy, completion_logprobs, part.rollout, config.temperature), None
        values = None
        if value_model is not None:
            values = run(value_model.eval(), completion_values, part.rollout)
    actor = actor_loss(config, learner.beta.value, part, logprobs, entropies)
    logged = {"policy/loss": actor, **update_metrics(logprobs, old, config.clip, config.clip_high)}
    if with_gap:
        logged["policy/sampling_gap"] = sampling_gap(config, part.rollout, logprobs.detach())
    if values is None:
        return actor, torch.zeros_like(actor), logged
    critic = value_loss(values, part.values, part.returns, config.value_clip)
    logged["value/loss"] = critic
    logged["value/clip_fraction"] = value_clip_fraction(values, part.values, config.value_clip)
    return actor, critic, logged


def actor_loss(
    config: PPOConfig, beta: float, part: Experience, logprobs: Tensor, entropies: Tensor | None
) -> Tensor:
    """The policy's loss per token (b, T): the clipped surrogate and what the settings add to it."""
    rollout = part.rollout
    loss = policy_loss(
        logprobs, rollout.logprobs, part.advantages, config.clip, config.clip_high, config.dual_clip
    )
    if rollout.sampler_logprobs is not None and (truncates(config) or config.importance_cap):
        loss = loss * importance_weights(rollout.logprobs, rollout.sampler_logprobs, config.importance_cap)
    if entropies is not None:
        loss = loss - config.entropy_coef * entropies
    if part.ref_logprobs is not None:
        loss = loss + beta * kl_k3(logprobs, part.ref_logprobs)  # Shao et al. 2024, eq. 4
    return loss


def check_sampler(means: TokenMeans, iteration: int) -> None:
    """Raises TrainingError where the sampler gave other log-probabilities than a forward pass of the same policy."""
    gap = means.means(["policy/sampling_gap"])["policy/sampling_gap"]
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
    mine = processes.shard(len(rows))
    own = [(part, True) for part in rows[mine.start : mine.stop].split(config.micro_batch_size) if len(part)]
    idle = parts_of_all(len(rows), config.micro_batch_size) - len(own) if is_sharded(policy) else 0
    for part, is_real in own + [(rows[:1], False)] * idle:
        with autocast(policy.device, config.bf16):
            loss = -run(policy, text_logprobs, part)
        (config.ptx_coef * loss.sum() / num_tokens * is_real).backward()
        if is_real:
            means.add(torch.ones_like(loss, dtype=torch.bool), {"ptx/loss": loss})
