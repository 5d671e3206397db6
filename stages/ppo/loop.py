"""PPO in the order of the paper (Ouyang et al. 2022, section 3.5; Schulman et al. 2017): sample, score, update.

Shapes: b completions of a part, T tokens of the longest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rlhf.errors import TrainingError
from rlhf.learning.losses import policy_loss, value_loss
from rlhf.learning.metrics import MetricLog, TokenMeans, update_metrics
from rlhf.learning.optimizers import step_together
from rlhf.learning.passes import completion_logprobs, completion_values, text_logprobs
from rlhf.learning.prompts import EncodedPrompt, prompt_order
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Experience
from rlhf.learning.training import warmup
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.machine.memory import FreedMemory
from rlhf.machine.threads import ThreadWatch
from rlhf.models.recompute import blocks_run_again
from rlhf.models.tokenizer import AnyTokenizer
from stages.ppo.experience import gather_experience, sample, with_lower_states
from stages.ppo.learner import Learner
from stages.ppo.pretraining import Pretraining
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
    prompts: Sequence[EncodedPrompt],
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
        steps,
        initial=learner.iteration,
        total=num_iterations,
        desc="ppo",
        disable=not processes.is_main_process(),
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
        trained_models = [learner.policy, learner.value_model] if config.gradient_checkpointing else []
        with blocks_run_again(trained_models):
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
        for part in minibatch.select(processes.shard(len(minibatch))).split(config.micro_batch_size):
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
        if not torch.isfinite(processes.sum_over_processes(losses)).all():
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
    return means.means(UPDATE_METRICS, processes.sum_over_processes) | {
        "policy/grad_norm": policy_norm,
        "value/grad_norm": value_norm,
    }


def check_sampler(means: TokenMeans, iteration: int) -> None:
    """Raises TrainingError where the sampler gave other log-probabilities than a forward pass of the same policy."""
    gap = means.means(["policy/sampling_gap"], processes.sum_over_processes)["policy/sampling_gap"]
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
    for part in rows[mine.start : mine.stop].split(config.micro_batch_size) if mine else ():
        with autocast(policy.device, config.bf16):
            loss = -text_logprobs(policy, part)
        (config.ptx_coef * loss.sum() / num_tokens).backward()
        means.add(torch.ones_like(loss, dtype=torch.bool), {"ptx/loss": loss})
