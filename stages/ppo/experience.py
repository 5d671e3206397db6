"""What an iteration of PPO learns from: sampled completions, their scores, advantages and returns.

Shapes: B completions of an iteration, b of a part, S tokens of a whole row, C channels, T tokens of the longest
completion, M rewards.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.errors import TrainingError
from rlhf.learning.metrics import component_metrics, rollout_metrics, value_metrics
from rlhf.learning.passes import completion_logprobs, completion_values
from rlhf.learning.prompts import ROUND_TO, EncodedPrompt
from rlhf.learning.rewards import Reward
from rlhf.learning.rollout import Experience, Rollout, in_length_order
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.adapters import save_plain
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.rollout_server import GAPS, RolloutServers
from rlhf.sampling.generate import Sample, SamplingSettings, generate
from rlhf.sharding import whole
from stages.ppo.advantages import climbed_scores, experience_of, penalties, trained_scores
from stages.ppo.checks import truncates
from stages.ppo.learner import Learner
from stages.ppo.models import reference_model
from stages.settings import PPOConfig


def sample(
    config: PPOConfig,
    policy: Any,
    prompts: Sequence[EncodedPrompt],
    tokenizer: AnyTokenizer,
    iteration: int,
    servers: RolloutServers | None = None,
) -> Rollout:
    """A completion of every prompt, each process writing its share, or asking servers for it."""
    if servers is not None:
        push(policy, servers, version=iteration + 1)
    with nullcontext() if servers is not None else whole(policy) as plain:
        samples = draw(config, plain, prompts, tokenizer, iteration, servers)
    return rollout_of(prompts, gathered_samples(samples), tokenizer)


def draw(
    config: PPOConfig,
    policy: Any | None,
    prompts: Sequence[EncodedPrompt],
    tokenizer: AnyTokenizer,
    iteration: int,
    servers: RolloutServers | None,
) -> list[Sample]:
    """This process's share of the completions; policy: a whole one, None where servers have the weights."""
    tokens = [prompt.tokens for prompt in prompts]
    mine = processes.shard(len(tokens))
    own, seed = tokens[mine.start : mine.stop], config.seed * 1_000_003 + iteration
    sampling = SamplingSettings(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p,
        processed_logprobs=truncates(config),
    )  # fmt: skip
    if servers is not None or policy is None:
        assert servers is not None
        return servers.complete(own, sampling, tokenizer.stop_ids, seed, mine)
    with autocast(policy.device, config.bf16):
        return generate(
            policy, own, sampling, stop_ids=tokenizer.stop_ids, seed=seed,
            batch_size=config.batch_size, places=mine,
        )  # fmt: skip


def rollout_of(
    prompts: Sequence[EncodedPrompt], samples: Sequence[Sample], tokenizer: AnyTokenizer, staleness: int = 0
) -> Rollout:
    """Prompts and their completions as tensors."""
    conversations = [prompt.prompt for prompt in prompts]
    made = Rollout.from_samples(
        [prompt.tokens for prompt in prompts], samples, tokenizer.pad_id, ROUND_TO, conversations, tokenizer.eos_id,
        [prompt.columns for prompt in prompts],
    )  # fmt: skip
    return replace(made, staleness=staleness) if staleness else made


def push(policy: Any, servers: RolloutServers, version: int) -> None:
    """The policy's weights to the servers: the first process writes them and lets every server read them."""

    def write_and_reload() -> list[int | None]:
        servers.write(lambda folder, untied: save_plain(plain, folder, untied))
        servers.reload(version)
        return [server.version for server in servers.servers]

    with whole(policy) as plain:
        versions = processes.broadcast_from_main(write_and_reload)
    for server, known in zip(servers.servers, versions, strict=True):
        server.version = known


def gathered_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of all processes, in the order of the processes."""
    rows = [
        torch.tensor(
            [s.ended, s.version, *s.tokens, *s.logprobs], dtype=torch.float64
        )  # holds every id exactly
        for s in samples
    ]
    found = []
    for row in processes.gather_rows(rows):
        ended, version, *rest = row.tolist()
        middle = len(rest) // 2
        found.append(
            Sample([int(token) for token in rest[:middle]], rest[middle:], bool(ended), int(version))
        )
    return found


def with_lower_states(config: PPOConfig, learner: Learner, rollout: Rollout) -> Rollout:
    """The rollout with what the frozen lower part makes of it, once for all models and updates; they are kept."""
    if learner.lower is None:
        return rollout
    lower, policy = learner.lower, learner.policy.eval()

    def states(part: Rollout) -> Tensor:
        return lower.states(policy, part.tokens.to(policy.device), part.attention_mask.to(policy.device))

    with autocast(policy.device, config.bf16):
        return replace(rollout, lower=lower, states=map_rows(rollout, config, states))  # (B, S, C)


@torch.no_grad()
def with_policy_logprobs(config: PPOConfig, policy: Any, rollout: Rollout) -> Rollout:
    """The rollout with the policy's own log-probabilities where those of the sampler are not, or are not to be, the same.

    Raises TrainingError where a server's differ by more than its number format explains: it holds other weights.
    """
    from_servers = config.sampler == "vllm"
    if not (config.recompute_logprobs or truncates(config) or from_servers or config.max_staleness):
        return rollout
    with whole(policy) as plain, autocast(policy.device, config.bf16):
        own = map_rows(rollout, config, lambda part: completion_logprobs(plain, part, config.temperature))
    if from_servers and not rollout.staleness:  # older weights give other numbers
        check_servers(config, sampling_gap(config, rollout, own)[rollout.mask])
    return replace(rollout, logprobs=own, sampler_logprobs=rollout.logprobs)


def sampling_gap(config: PPOConfig, rollout: Rollout, logprobs: Tensor) -> Tensor:
    """How far each token's log-probability (b, T) by a pass of the policy is from what the sampler's allows, in nats.

    Tokens drawn from a nucleus of mass m ≥ top_p had there 1 / m of their probability: log m may lie between.
    """
    drawn_from = rollout.logprobs if rollout.sampler_logprobs is None else rollout.sampler_logprobs
    above = logprobs - drawn_from
    if not truncates(config):
        return above.abs()
    least = -math.inf if config.top_k else math.log(config.top_p)
    return above.clamp(min=0) + (least - above).clamp(min=0)


def check_servers(config: PPOConfig, gaps: Tensor) -> None:
    """Raises TrainingError where gaps (N,) in nats a token are more than the servers' number format makes."""
    mean, most = GAPS[config.sampler_dtype]
    if gaps.mean() > mean or gaps.max() > most:
        raise TrainingError(
            f"the sampler's log-probabilities are {gaps.mean():.2g} nats a token away from the policy's, {gaps.max():.2g} at "
            f"most; {config.sampler_dtype} explains {mean:g} and {most:g}. It has other weights: vLLM on CPUs keeps a tied head "
            "at reload_weights. Serve what `rlhf store export POLICY FOLDER --untied` writes, or set sampler_dtype to what "
            "they compute in"
        )


@dataclass(frozen=True)
class Judged:
    """A rollout with what the frozen models and the value model say of it.

    scores (B,) as the reward gave them, combined of components (B, M); ref_logprobs, values (B, T), the latter zeros where
    no value model learns.
    """

    rollout: Rollout
    scores: Tensor
    components: Tensor
    ref_logprobs: Tensor
    values: Tensor


@torch.no_grad()
def judge(
    config: PPOConfig, learner: Learner, reference: Any | None, reward: Reward, rollout: Rollout
) -> Judged:
    """Scores, reference log-probabilities and values of a rollout. Raises TrainingError for a score that is no number."""
    policy, value_model = learner.policy.eval(), learner.value_model
    rollout = with_policy_logprobs(config, policy, rollout)
    values = torch.zeros_like(rollout.logprobs)
    with autocast(policy.device, config.bf16):
        with reference_model(policy, reference) as frozen:
            ref_logprobs = map_rows(
                rollout, config, lambda part: completion_logprobs(frozen, part, config.temperature)
            )
        if value_model is not None:
            with whole(value_model.eval()) as plain:
                values = map_rows(rollout, config, lambda part: completion_values(plain, part))
    mine = rollout.select(processes.shard(len(rollout)))
    components = torch.stack(processes.gather_rows(list(reward.components(mine))))
    scores = reward.combined(components)
    if not torch.isfinite(scores).all():
        raise TrainingError(
            f"iteration {learner.iteration}: the reward gave a score that is not a finite number"
        )
    return Judged(rollout, scores, components, ref_logprobs, values)


@torch.no_grad()
def gather_experience(
    config: PPOConfig, learner: Learner, reward: Reward, judged: Judged
) -> tuple[Experience, dict[str, float]]:
    """KL-shaped rewards, advantages and returns of a judged rollout; nothing here carries a gradient."""
    rollout, scores, beta = judged.rollout, judged.scores, learner.beta.value
    taken = penalties(config, rollout)
    if config.normalize_scores:
        learner.moments.update(scores)
    trained = trained_scores(config, learner.moments, scores)
    climbed = climbed_scores(config, learner.moments, trained)
    metrics = rollout_metrics(rollout, scores, judged.ref_logprobs, beta, taken, *climbed)
    metrics |= component_metrics(reward.scorers, judged.components)
    if config.max_staleness:
        metrics["policy/staleness"] = float(rollout.staleness)
    if config.sampler == "vllm" and not rollout.staleness:
        gaps = sampling_gap(config, rollout, rollout.logprobs)[rollout.mask]
        metrics["policy/sampling_gap_max"] = float(gaps.max())
    experience = experience_of(config, rollout, trained - taken, judged.ref_logprobs, judged.values, beta)
    if learner.value_model is not None:
        metrics |= value_metrics(experience.values, experience.returns, experience.rollout.mask)
    if config.filter_overlong or config.filter_equal_scores:
        metrics["completion/learned"] = len(experience) / len(rollout)
    return experience, metrics


def map_rows(rollout: Rollout, config: PPOConfig, work: Callable[[Rollout], Tensor]) -> Tensor:
    """work (b, T) of all rows, (B, T) on the CPU: each process its share, batched by length."""
    mine = in_length_order(rollout.select(processes.shard(len(rollout))), config.micro_batch_size, work)
    return pad_sequence(processes.gather_rows(mine), batch_first=True)
