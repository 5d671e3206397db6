"""What PPO's settings must agree on with each other."""

from collections.abc import Iterator
from dataclasses import fields

from rlhf.errors import InputError
from stages.settings import PPOConfig


def check(config: PPOConfig) -> None:
    """Raises InputError for settings that contradict each other or mean nothing."""
    if not isinstance(config, PPOConfig):
        raise InputError(
            f"args is a {type(config).__name__}; pass a PPOConfig, such as PPOConfig(episodes=6400)"
        )
    for problem in (
        *_limits(config),
        *_beta(config),
        *_groups(config),
        *_without_values(config),
        *_sampling(config),
        *_unread(config),
    ):
        raise InputError(f"ppo: {problem}")


def _limits(config: PPOConfig) -> Iterator[str]:
    if config.dual_clip and not config.dual_clip > 1 + (config.clip_high or config.clip):
        yield f"dual_clip = {config.dual_clip}: give a ratio above the clip range, such as 3, or 0 for none"
    if config.keep_every >= config.num_iterations:
        yield f"keep_every = {config.keep_every}: the run has {config.num_iterations} iterations, so none would be kept before its end; give fewer, or 0 for none"
    if config.overlong_buffer > config.max_new_tokens:
        yield f"overlong_buffer = {config.overlong_buffer}: more than max_new_tokens = {config.max_new_tokens}"


def _unread(config: PPOConfig) -> Iterator[str]:
    """Settings that were chosen where what would read them is off."""
    for names, is_read, way_out in (
        ("kl_target kl_horizon", config.adaptive_kl, "set adaptive_kl"),
        ("kl_budget_action", config.kl_budget, "set kl_budget"),
        ("overlong_penalty", config.overlong_buffer, "set overlong_buffer"),
        ("overlong_buffer", config.overlong_penalty, "set overlong_penalty"),
        ("lam value_lr value_clip value_coef", config.advantages == "gae", "set advantages = gae"),
        ("ptx_examples ptx_data", config.ptx_coef, "set ptx_coef"),
        ("eval_prompts", config.eval_every, "set eval_every"),
        ("sampler_dtype", config.sampler == "vllm", "set sampler = vllm"),
    ):
        for each in fields(config):
            value = getattr(config, each.name)
            if each.name in names.split() and value != each.default and not is_read:
                instead = "leave it out" if each.default is None else f"leave it at {each.default}"
                yield f"{each.name} = {value}: nothing here reads it; {way_out}, or {instead}"


def _beta(config: PPOConfig) -> Iterator[str]:
    tightens = bool(config.kl_budget) and config.kl_budget_action == "tighten"
    if config.adaptive_kl and tightens:
        yield "kl_budget and adaptive_kl both steer β; choose one of them"
    if (config.adaptive_kl or tightens) and not config.kl_coef:
        yield "kl_coef = 0: adaptive_kl and kl_budget multiply it, so it would stay 0; start above"
    if config.adaptive_kl and config.batch_size >= 5 * config.kl_horizon:
        yield f"kl_horizon = {config.kl_horizon}: one batch could take all of β; give more than {config.batch_size // 5}"


def _groups(config: PPOConfig) -> Iterator[str]:
    each = config.completions_per_prompt
    for name in ("batch_size", "episodes") if each > 1 else ():
        if getattr(config, name) % each:
            yield f"{name} = {getattr(config, name)}: choose a multiple of completions_per_prompt = {each}"
    for setting, chosen in (
        (f"advantages = {config.advantages}", config.advantages in ("rloo", "grpo")),
        ("filter_equal_scores", config.filter_equal_scores),
    ):
        if chosen and each < 2:
            yield f"{setting} compares completions of one prompt: set completions_per_prompt to 2 or more"


def _without_values(config: PPOConfig) -> Iterator[str]:
    if config.advantages in ("rloo", "grpo") and config.gamma != 1:
        yield f"gamma = {config.gamma}: {config.advantages} takes completions as a whole; leave it at 1"
    if config.advantages in ("rloo", "grpo") and config.whiten_rewards:
        yield f"whiten_rewards shifts every token's reward: {config.advantages} takes completions as a whole; leave it out"
    if config.value_warmup_iterations and config.advantages != "gae":
        yield f"value_warmup_iterations: advantages = {config.advantages} has no value model; leave it at 0"
    if config.value_warmup_iterations >= config.num_iterations:
        yield f"value_warmup_iterations = {config.value_warmup_iterations}: of {config.num_iterations} iterations the policy would learn in none"
    if config.kl_in == "loss" and config.kl_estimator == "k1":
        yield "kl_in = loss: the gradient of k1 is 0 on average; set kl_estimator = k3"


def _sampling(config: PPOConfig) -> Iterator[str]:
    of_servers = config.sampler == "vllm"
    if of_servers and not (config.sampler_urls and config.sampler_folder):
        yield "sampler = vllm needs sampler_urls, and sampler_folder, which the servers serve"
    if not of_servers and (config.sampler_urls or config.sampler_folder):
        yield "sampler_urls and sampler_folder are of servers: set sampler = vllm, or leave them out"
    differs = config.recompute_logprobs or truncates(config) or of_servers or config.max_staleness
    if config.importance_cap and not differs:
        yield "importance_cap weighs the policy's log-probabilities against the sampler's: set recompute_logprobs, top_p or top_k, too"
    if config.max_staleness and not config.importance_cap:
        yield "max_staleness: older weights drew what is learned from; weigh it with importance_cap, such as 2"


def truncates(config: PPOConfig) -> bool:
    """Whether rollouts are drawn from a part of the policy's distribution."""
    return config.top_p < 1 or config.top_k > 0
