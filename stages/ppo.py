"""Stage 3: PPO against a reward (Ouyang et al. 2022, section 3.5), in the order of the paper."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rlhf.data import Prompt, as_messages, read_texts
from rlhf.errors import InputError, TrainingError
from rlhf.generate import SamplingSettings, generate
from rlhf.losses import lm_loss, policy_loss, value_loss
from rlhf.metrics import MetricLog, policy_metrics
from rlhf.model import load_policy, load_scalar
from rlhf.rewards import Reward, RewardModel
from rlhf.rl import (
    AdaptiveKL,
    FixedKL,
    KLBudget,
    explained_variance,
    gae,
    kl_k1,
    kl_shaped,
    masked_mean,
    rescale,
    whiten,
)
from rlhf.rollout import Experience, Rollout, completion_logprobs, completion_values
from rlhf.starter.corpus import corpus
from rlhf.store import Entry, Store, inputs_hash
from rlhf.threads import ThreadWatch
from rlhf.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.training import (
    Average,
    Optimizers,
    adamw,
    autocast,
    best_device,
    load_state,
    restore_runtime,
    runtime_state,
    save_state,
    seed_everything,
    set_threads,
)
from stages.inputs import model_of, packed_tokens, prompts_of
from stages.settings import PPOConfig

ROUND_TO = 8  # padding to few different widths keeps the allocator's blocks reusable


@dataclass
class Learner:
    """All that changes during PPO; what `--resume` must bring back."""

    policy: Any
    value_model: Any
    policy_optimizer: Optimizers
    value_optimizer: Optimizers
    beta: FixedKL
    average: Average | None
    generator: torch.Generator
    iteration: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "value_model": self.value_model.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "value_optimizer": self.value_optimizer.state_dict(),
            "beta": self.beta.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "generator": self.generator.get_state(),
            "runtime": runtime_state(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.value_model.load_state_dict(state["value_model"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.beta.load_state_dict(state["beta"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.generator.set_state(state["generator"])
        restore_runtime(state["runtime"])
        self.iteration = state["iteration"]


def kl_coefficient(config: PPOConfig) -> FixedKL:
    """β as the configuration wants it: fixed, kept within a budget, or steered towards a target."""
    if config.adaptive_kl and config.kl_budget:
        raise InputError("ppo: kl_budget and adaptive_kl both steer β; choose one of them")
    if config.adaptive_kl:
        return AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
    return KLBudget(config.kl_coef, config.kl_budget) if config.kl_budget else FixedKL(config.kl_coef)


def new_learner(config: PPOConfig, policy: Any, value_model: Any) -> Learner:
    """A learner at iteration 0; Adam's ε is 1e-5 as in the earlier code lineage."""
    return Learner(
        policy=policy,
        value_model=value_model,
        policy_optimizer=adamw(policy.parameters(), config.lr, eps=config.adam_eps),
        value_optimizer=adamw(value_model.parameters(), config.value_lr, eps=config.adam_eps),
        beta=kl_coefficient(config),
        average=Average(policy, config.ema_decay) if config.ema_decay else None,
        generator=torch.Generator().manual_seed(config.seed),
    )


def train(
    config: PPOConfig,
    learner: Learner,
    reference: Any,
    reward: Reward,
    prompts: Sequence[list[int]],
    tokenizer: AnyTokenizer,
    *,
    pretraining: Iterator[Tensor] | None = None,
    log: MetricLog,
    save: Callable[[dict[str, Any]], None] = lambda state: None,
) -> None:
    """Run PPO from the learner's iteration to the last one.

    prompts: token ids, drawn in a new random order each pass. pretraining yields rows of tokens (B, S) for PPO-ptx.
    Raises TrainingError, with no weight changed by it, for a loss or gradient that is not finite.
    """
    device = learner.policy.device
    num_iterations = max(1, config.episodes // config.batch_size)
    sampling = SamplingSettings(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    bar = tqdm(
        range(learner.iteration, num_iterations), initial=learner.iteration, total=num_iterations, desc="ppo"
    )
    watch = ThreadWatch()
    for iteration in bar:
        batch = [prompts[i] for i in prompt_order(len(prompts), iteration, config.batch_size, config.seed)]
        with autocast(device):
            samples = generate(
                learner.policy, batch, sampling, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id,
                seed=config.seed * 1_000_003 + iteration, batch_size=config.batch_size,
            )  # fmt: skip
        rollout = Rollout.from_samples(batch, samples, tokenizer.pad_id, ROUND_TO)
        experience, metrics = gather_experience(config, learner, reference, reward, rollout)
        factor = warmup(iteration, config.warmup_iterations)
        learner.policy_optimizer.set_lr_factor(factor)
        learner.value_optimizer.set_lr_factor(factor)
        metrics |= update(config, learner, experience, pretraining)
        learner.beta.update(metrics["kl/sequence"], num_episodes=len(rollout))
        learner.iteration = iteration + 1
        watch.step()
        log.write(iteration, metrics)
        bar.set_postfix(score=f"{metrics['reward/score']:.3f}", kl=f"{metrics['kl/sequence']:.3f}")
        if config.save_every and (iteration + 1) % config.save_every == 0:
            save(learner.state_dict())


def prompt_order(num_prompts: int, iteration: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the prompts of one iteration: consecutive slices of one random order per pass over all prompts."""
    chosen: list[int] = []
    for episode in range(iteration * batch_size, (iteration + 1) * batch_size):
        epoch, place = divmod(episode, num_prompts)
        if not chosen or place == 0:
            order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        chosen.append(int(order[place]))
    return chosen


def warmup(iteration: int, warmup_iterations: int) -> float:
    """Learning-rate factor: from a tenth of the peak up to the peak over the first iterations, constant after."""
    return min(1.0, 0.1 + 0.9 * iteration / warmup_iterations) if warmup_iterations else 1.0


@torch.no_grad()
def gather_experience(
    config: PPOConfig, learner: Learner, reference: Any, reward: Reward, rollout: Rollout
) -> tuple[Experience, dict[str, float]]:
    """Scores, KL-shaped rewards, advantages and returns of a rollout; nothing here carries a gradient."""
    learner.policy.eval(), learner.value_model.eval()
    parts = rollout.split(config.micro_batch_size)
    width = rollout.mask.shape[1]
    with autocast(learner.policy.device):
        logprobs = _joined(
            [completion_logprobs(learner.policy, part, config.temperature) for part in parts], width
        )
        ref_logprobs = _joined(
            [completion_logprobs(reference, part, config.temperature) for part in parts], width
        )
        values = _joined([completion_values(learner.value_model, part) for part in parts], width)  # (B, T)
    scores = reward(rollout)  # (B,)
    penalised = torch.where(rollout.ended, scores, scores - config.missing_eos_penalty)

    mask = rollout.mask
    kl = kl_k1(logprobs, ref_logprobs)  # (B, T)
    rewards = kl_shaped(penalised, kl, mask, learner.beta.value)  # Ouyang et al. 2022, eq. 2
    if config.whiten_rewards:
        rewards = rescale(rewards, mask)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)  # Schulman et al. 2016, eq. 16
    sampled = rollout.logprobs
    rollout = replace(rollout, logprobs=logprobs)
    metrics = {
        "reward/score": float(scores.mean()),
        "reward/score_std": float(scores.std()) if len(scores) > 1 else 0.0,
        "kl/sequence": float((kl * mask).sum(1).mean()),
        "kl/beta": learner.beta.value,
        "completion/length": float(mask.sum(1).float().mean()),
        "completion/ended": float(rollout.ended.float().mean()),
        "policy/sampling_ratio": float(masked_mean((logprobs - sampled).exp(), mask)),
        "value/explained_variance": float(explained_variance(values, returns, mask)),
    }
    return Experience(rollout, values, whiten(advantages, mask), returns), metrics


def _joined(parts: list[Tensor], width: int) -> Tensor:
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def update(
    config: PPOConfig, learner: Learner, experience: Experience, pretraining: Iterator[Tensor] | None
) -> dict[str, float]:
    """Inner epochs of clipped policy and value updates over shuffled minibatches; returns the last one's metrics."""
    (
        learner.policy.eval(),
        learner.value_model.eval(),
    )  # dropout stays off, as it was when the rollout was sampled
    metrics: dict[str, float] = {}
    for minibatch in experience.shuffled(config.minibatch_size, config.inner_epochs, learner.generator):
        losses = torch.zeros(2)
        collected = []
        for part in minibatch.split(config.micro_batch_size):
            old = part.rollout.logprobs
            with autocast(learner.policy.device):
                logprobs = completion_logprobs(learner.policy, part.rollout, config.temperature)  # (b, T)
                values = completion_values(learner.value_model, part.rollout)  # (b, T)
            actor = policy_loss(logprobs, old, part.advantages, config.clip).sum() / minibatch.num_tokens
            critic = (
                value_loss(values, part.values, part.returns, config.value_clip).sum() / minibatch.num_tokens
            )
            # The whole minibatch's token count is the denominator: any split into parts gives one gradient.
            (actor + config.value_coef * critic).backward()
            losses += torch.stack([actor.detach(), critic.detach()]).cpu()
            collected.append((logprobs.detach(), part))
        if not torch.isfinite(losses).all():
            raise TrainingError(
                f"iteration {learner.iteration}: the loss is not finite; lower the learning rate"
            )
        if pretraining is not None:
            _add_ptx_gradient(config, learner, next(pretraining))
        norm = learner.policy_optimizer.step(config.max_grad_norm)
        learner.value_optimizer.step(config.max_grad_norm)
        if learner.average:
            learner.average.update(learner.policy)
        logprobs, part = collected[-1]
        metrics = policy_metrics(logprobs, part.rollout.logprobs, part.rollout.mask, config.clip)
        metrics |= {"policy/loss": float(losses[0]), "value/loss": float(losses[1]), "policy/grad_norm": norm}
    return metrics


def _add_ptx_gradient(config: PPOConfig, learner: Learner, rows: Tensor) -> None:
    """PPO-ptx (Ouyang et al. 2022, eq. 2): γ times the mean loss per token of pretraining text is added."""
    rows = rows.to(learner.policy.device)
    with autocast(learner.policy.device):
        logits = learner.policy(input_ids=rows[:, :-1]).logits
    (config.ptx_coef * lm_loss(logits.flatten(0, 1), rows[:, 1:].flatten()).mean()).backward()


def ptx_rows(tokens: Tensor, length: int, num_rows: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches (num_rows, length + 1) of consecutive tokens from random places of a text (N,)."""
    while True:
        starts = torch.randint(0, len(tokens) - length - 1, (num_rows,), generator=generator)
        yield tokens[starts[:, None] + torch.arange(length + 1)]


def run(config: PPOConfig, store: Store, say: Callable[[str], None] = print) -> Entry:
    """PPO from the SFT model against the reward model, both from the store, into the store; resumes by itself."""
    policy_folder, sft = model_of(store, config.policy)
    reward_folder, reward_entry = model_of(store, config.reward)
    prompts, data = prompts_of(config.prompts, "train", config.episodes, config.seed + 1)
    inputs: dict[str, Any] = {
        "parents": {role: entry for role, entry in (("sft", sft), ("reward", reward_entry)) if entry},
        "settings": asdict(config),
        "data": data,
        "seed": config.seed,
    }
    if found := store.find("ppo", inputs_hash("ppo", **inputs)):
        say(f"ppo: {found.ref} is there already")
        return found
    set_threads(0)
    seed_everything(config.seed)
    tokenizer = load_tokenizer(policy_folder)
    device = best_device()
    policy, reference = (load_policy(policy_folder).to(device) for _ in range(2))
    reference.eval().requires_grad_(False)
    value_model, reward_model = (load_scalar(reward_folder).to(device) for _ in range(2))
    learner = new_learner(config, policy, value_model)
    state_file = store.work_folder("ppo", inputs_hash("ppo", **inputs)) / "state.pt"
    if state := load_state(state_file):
        learner.load_state_dict(state)
        say(f"ppo: continuing at iteration {learner.iteration}")
    log = MetricLog(store.root / "logs" / f"ppo-{config.name}")
    started = time.monotonic()
    train(
        config, learner, reference, RewardModel(reward_model), tokenized_prompts(prompts, tokenizer, policy, config),
        tokenizer, pretraining=_pretraining(config, tokenizer), log=log, save=lambda state: save_state(state_file, state),
    )  # fmt: skip
    with store.new("ppo", config.name, **inputs) as writer:
        _save(learner, tokenizer, writer.path)
        log.save(writer.path)
        last = log.history[-5:]
        writer.metrics = {
            "reward": round(sum(row["reward/score"] for row in last) / len(last), 4) if last else None,
            "kl": round(sum(row["kl/sequence"] for row in last) / len(last), 4) if last else None,
            "episodes": config.episodes,
            "train_s": round(time.monotonic() - started, 1),
        }
    store.discard_work("ppo", inputs_hash("ppo", **inputs))
    return writer.entry


def tokenized_prompts(
    prompts: Sequence[Prompt], tokenizer: AnyTokenizer, policy: Any, config: PPOConfig
) -> list[list[int]]:
    """Prompts as token ids; raises InputError if one leaves no room for max_new_tokens in the policy's context."""
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts]
    context = getattr(policy.config, "max_position_embeddings", None)
    for number, row in enumerate(rows, start=1):
        if context and len(row) + config.max_new_tokens > context:
            raise InputError(
                f"prompt {number} has {len(row)} tokens and max_new_tokens is {config.max_new_tokens}; together they "
                f"exceed the context of {context}: shorten the prompt or lower max_new_tokens"
            )
    if not rows:
        raise InputError("no prompts; name a file with --prompts")
    return rows


def _pretraining(config: PPOConfig, tokenizer: AnyTokenizer) -> Iterator[Tensor] | None:
    if not config.ptx_coef:
        return None
    texts = read_texts(config.ptx_data) if config.ptx_data else corpus(200_000, config.seed)
    generator = torch.Generator().manual_seed(config.seed + 17)
    return ptx_rows(packed_tokens(tokenizer, texts), 127, config.minibatch_size, generator)


def _save(learner: Learner, tokenizer: AnyTokenizer, folder: Path) -> None:
    """The policy on top, the value model beside it under value/, averaged weights under ema/."""
    learner.policy.save_pretrained(folder)
    tokenizer.save(folder)
    learner.value_model.save_pretrained(folder / "value")
    tokenizer.save(folder / "value")
    if learner.average:
        raw = {name: value.detach().clone() for name, value in learner.policy.named_parameters()}
        learner.policy.load_state_dict(learner.average.weights, strict=False)
        learner.policy.save_pretrained(folder / "ema")
        learner.policy.load_state_dict(raw, strict=False)
