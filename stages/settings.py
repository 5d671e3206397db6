"""The settings of every stage, each with its help beside the default; flags, recipes and manifests come from here."""

import re
from dataclasses import dataclass

from rlhf.settings import COLDEST, Settings
from stages.fields import (
    GIVEN_TEMPLATE_KWARGS,
    GRADIENT_CHECKPOINTING,
    LAST_BLOCKS,
    LORA_RANK,
    TEMPLATE_KWARGS,
    ReadingSettings,
    naming,
    seeding,
    setting,
    sharding,
)

BATCH = re.compile(r"(?s).{1,190}")  # the label store takes 200, and a pipeline may add to it


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ReadingSettings):
    """A base GPT from plain text."""

    data: str | None = setting(
        None, "text file, rows with a text column or data set (default: the starter corpus)", place=True
    )
    name: str = naming()
    tokenizer: str | None = setting(
        None, "published tiktoken encoding, such as gpt2 (default: trained on the text)"
    )
    vocab_size: int = setting(0, "size of a vocabulary trained here (0: by the text's size)", at_least=0)
    layers: int = setting(4, "blocks", at_least=1)
    width: int = setting(128, "width of the residual stream", at_least=1)
    heads: int = setting(4, "attention heads", at_least=1)
    context: int = setting(160, "longest sequence the model can read", at_least=2)
    tokens: int = setting(0, "tokens to train on (0: by the text's size)", at_least=0, at_most=10**15)
    batch_size: int = setting(8, "sequences per step", at_least=1)
    sequence_length: int = setting(128, "tokens per sequence", at_least=2, common=False)
    dropout: float | None = setting(
        None,
        "dropout while training (default: by how often the text is read)",
        at_least=0,
        below=1,
        common=False,
    )
    lr: float = setting(3e-3, "AdamW's learning rate (embeddings, norms, biases)", above=0)
    muon_lr: float = setting(0.01, "Muon's learning rate (the blocks' matrices)", at_least=0)
    warmup_fraction: float = setting(
        0.02,
        "share of the steps with a rising learning rate",
        at_least=0,
        at_most=1,
        flag=False,
        common=False,
    )
    bf16: str = setting("auto", "bfloat16 products", flag=False, choices=("auto", "on", "off"))
    threads: int = setting(0, "CPU threads (0: all cores)", at_least=0, at_most=4096, flag=False)
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class SFTSettings(ReadingSettings):
    """Supervised fine-tuning on demonstrations."""

    base: str = setting("base", "store reference, folder or hub id to start from", place=True)
    data: str | None = setting(None, "demonstrations (default: the starter world's)", place=True)
    validation_data: str | None = setting(
        None, "demonstrations to validate on (default: a tenth of data)", place=True
    )
    reward: str | None = setting(
        None, "reward model to pick the epoch by (default: validation loss picks)", common=False, place=True
    )
    name: str = naming()
    template_kwargs: str = setting("", TEMPLATE_KWARGS, common=False)
    num_demonstrations: int = setting(400, "how many starter demonstrations", at_least=1)
    epochs: float = setting(3.0, "passes over the data", above=0)
    batch_size: int = setting(16, "demonstrations per step", at_least=1)
    lr: float = setting(1e-3, "peak learning rate, cosine to a tenth", above=0)
    dropout: float = setting(0.0, "dropout while training", at_least=0, below=1, flag=False)
    packing: bool = setting(False, "pack several demonstrations into one row", flag=False)
    max_length: int = setting(256, "longest row in tokens", at_least=2)
    skip_long: bool = setting(False, "leave rows longer than that out, instead of cutting them", common=False)
    turns: str = setting(
        "all",
        "answers of a conversation to learn: all of the assistant's, or its last",
        choices=("all", "last"),
        common=False,
    )
    last_blocks: int = setting(0, LAST_BLOCKS, at_least=0, common=False)
    lora_rank: int = setting(0, LORA_RANK, at_least=0)
    gradient_checkpointing: bool = setting(False, GRADIENT_CHECKPOINTING, flag=False, decides=False)
    shard: str = sharding()
    report_to: str = setting(
        "none", "where trl logs to beside our TensorBoard files, such as wandb", decides=False, common=False
    )
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class SampleSettings(ReadingSettings):
    """K completions per prompt, as ranking tasks in the label store."""

    policy: str = setting("sft", "store reference, folder or hub id to sample from", place=True)
    against: str | None = setting(
        None, "a second policy: half of the answers each; --k 2 asks which is better", place=True
    )
    prompts: str | None = setting(None, "prompts (default: the starter world's)", place=True)
    skip_long: bool = setting(False, "leave out prompts that leave no room for max_new_tokens", common=False)
    split: str = setting("train", "starter prompts to use", flag=False, choices=("train", "validation"))
    template_kwargs: str = setting("", GIVEN_TEMPLATE_KWARGS, common=False)
    num_prompts: int = setting(1000, "how many prompts", at_least=1)
    k: int = setting(4, "completions per prompt, 2 to 9", at_least=2, at_most=9)
    temperature: float = setting(1.0, "sampling temperature", at_least=COLDEST)
    max_new_tokens: int = setting(48, "longest completion in tokens", at_least=1)
    batch: str = setting(
        "round-1", "name of the batch of tasks", pattern=BATCH, pattern_text="at most 190 characters"
    )
    overlap: int = setting(1, "labelers per task", at_least=1)
    simulate: bool = setting(False, "let simulated labelers rank at once (starter prompts only)")
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class RewardSettings(ReadingSettings):
    """A reward model from rankings."""

    init: str = setting("sft", "store reference, folder or hub id of the policy to start from", place=True)
    data: str | None = setting(None, "rankings or comparisons (default: the label store)", place=True)
    name: str = naming()
    template_kwargs: str = setting("", TEMPLATE_KWARGS, common=False)
    labels: str | None = setting(None, "snapshot of the label store to train on (default: all of it now)")
    epochs: float = setting(1.0, "passes over the rankings", above=0)
    prompts_per_batch: int = setting(32, "prompts per step, each with all its completions", at_least=1)
    lr: float = setting(1e-3, "peak learning rate, cosine to a tenth", above=0)
    muon_lr: float = setting(
        0.0, "Muon's learning rate for the blocks' matrices (0: AdamW for all)", at_least=0, common=False
    )
    probe_l2: float = setting(
        0.0, "fit the head first, with this L2 penalty (0: a head of chance)", at_least=0, common=False
    )
    heads: int = setting(
        0, "also fit an ensemble of so many heads, for rlhf ppo --pessimism", at_least=0, common=False
    )
    validation_fraction: float = setting(
        0.1, "share of the prompts held out to measure accuracy", at_least=0, below=1, common=False
    )
    max_length: int = setting(256, "longest prompt with completion in tokens", at_least=2)
    skip_long: bool = setting(
        False, "leave rankings with a longer answer out, instead of cutting it", common=False
    )
    last_blocks: int = setting(0, LAST_BLOCKS, at_least=0, common=False)
    lora_rank: int = setting(0, LORA_RANK, at_least=0)
    gradient_checkpointing: bool = setting(False, GRADIENT_CHECKPOINTING, flag=False, decides=False)
    shard: str = sharding()
    report_to: str = setting(
        "none", "where trl logs to beside our TensorBoard files, such as wandb", decides=False, common=False
    )
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Settings):
    """PPO: what `PPOTrainer` takes. The defaults suit the small models of the starter world."""

    episodes: int = setting(6400, "completions to learn from", at_least=1)
    batch_size: int = setting(256, "completions per iteration", at_least=1)
    completions_per_prompt: int = setting(1, "completions of each prompt, a group", at_least=1, common=False)
    minibatch_size: int = setting(64, "completions per optimizer step", at_least=1)
    micro_batch_size: int = setting(
        64, "completions per forward pass (memory only)", at_least=1, decides=False, common=False
    )
    inner_epochs: int = setting(1, "passes over each batch", at_least=1, flag=False)
    lr: float = setting(4e-4, "policy learning rate", above=0)
    value_lr: float = setting(1e-3, "value learning rate", above=0, common=False)
    kl_coef: float = setting(0.3, "β, price of a nat of KL to the reference", at_least=0)
    kl_estimator: str = setting("k1", "KL per token in the rewards", flag=False, choices=("k1", "k3"))
    kl_budget: float = setting(0.0, "nats per completion that KL should not pass (0: no budget)", at_least=0)
    kl_budget_action: str = setting(
        "tighten", "above the budget: raise β, or stop", flag=False, choices=("tighten", "stop")
    )
    adaptive_kl: bool = setting(False, "steer β towards kl_target (Ziegler et al. 2019)", flag=False)
    kl_target: float = setting(6.0, "nats per completion", above=0, flag=False)
    kl_horizon: int = setting(10_000, "episodes of the controller's horizon", at_least=1, flag=False)
    clip: float = setting(0.2, "clip range of the ratio", above=0, flag=False)
    value_clip: float = setting(0.2, "clip range of the values", above=0, flag=False)
    value_coef: float = setting(0.1, "weight of the value loss", at_least=0, flag=False)
    clip_high: float = setting(0.0, "clip range above 1 (0: that of clip)", at_least=0, flag=False)
    dual_clip: float = setting(
        0.0, "ratio from which a token of negative advantage counts no more (0: none)", at_least=0, flag=False
    )
    entropy_coef: float = setting(0.0, "weight of the entropy that the loss rewards", at_least=0, flag=False)
    advantages: str = setting(
        "gae",
        "GAE with a value model, or without one",
        choices=("gae", "rloo", "grpo", "reinforce++"),
        common=False,
    )
    kl_in: str = setting("reward", "where the KL stands", flag=False, choices=("reward", "loss"))
    gamma: float = setting(1.0, "discount", above=0, at_most=1, flag=False)
    lam: float = setting(0.95, "λ of advantage estimation", at_least=0, at_most=1, flag=False)
    whiten_rewards: bool = setting(
        False, "scale rewards per token about their mean to standard deviation 1", flag=False
    )
    temperature: float = setting(1.0, "sampling temperature", at_least=COLDEST, common=False)
    top_p: float = setting(1.0, "nucleus mass of rollouts", above=0, at_most=1, flag=False)
    top_k: int = setting(0, "draw from the k most probable tokens (0: from all)", at_least=0, flag=False)
    sampler: str = setting("own", "who draws completions", flag=False, choices=("own", "vllm"))
    sampler_urls: str = setting(
        "", "addresses of vLLM servers, with commas between", flag=False, decides=False
    )
    sampler_folder: str = setting("", "folder that they serve", flag=False, decides=False)
    sampler_dtype: str = setting(
        "float32",
        "number format that they compute in",
        flag=False,
        choices=("float32", "bfloat16"),
        decides=False,
    )
    recompute_logprobs: bool = setting(
        False, "old log-probabilities by a pass of training, not the sampler's", flag=False
    )
    importance_cap: float = setting(
        0.0,
        "largest weight of a token for what the sampler's distribution is off (0: none)",
        at_least=0,
        flag=False,
    )
    max_staleness: int = setting(
        0,
        "1: draw each batch while the one before trains, by weights one iteration older",
        at_least=0,
        at_most=1,
        flag=False,
    )
    max_new_tokens: int = setting(48, "longest completion in tokens", at_least=1)
    skip_long: bool = setting(False, "leave out prompts that leave no room for max_new_tokens", common=False)
    missing_eos_penalty: float = setting(
        1.0, "taken from the score of a completion that does not end", at_least=0, common=False
    )
    overlong_buffer: int = setting(
        0,
        "last tokens before max_new_tokens over which overlong_penalty rises (0: none)",
        at_least=0,
        flag=False,
    )
    overlong_penalty: float = setting(
        1.0, "taken from the score of a completion of max_new_tokens", at_least=0, flag=False
    )
    filter_overlong: bool = setting(False, "learn nothing from completions that do not end", flag=False)
    filter_equal_scores: bool = setting(
        False, "learn nothing from prompts whose completions all score alike", flag=False
    )
    reward_combine: str = setting(
        "sum", "how several rewards become one", choices=("sum", "min", "lower-bound"), common=False
    )
    reward_weights: str = setting(
        "", "weight of each reward in the sum, with commas between (default: the mean)", common=False
    )
    pessimism: float | None = setting(
        None,
        "climb mean − k · std of the reward model's heads, and of several rewards by lower-bound (default there: 1)",
        at_least=0,
        common=False,
    )
    normalize_scores: bool = setting(False, "shift and scale scores by those seen so far", flag=False)
    clip_scores: float = setting(
        0.0, "largest absolute score after that (0: no limit)", at_least=0, flag=False
    )
    warmup_iterations: int = setting(2, "iterations with a rising learning rate", at_least=0, flag=False)
    value_warmup_iterations: int = setting(
        0, "first iterations, in which only the value model learns", at_least=0, flag=False
    )
    lr_decay: str = setting(
        "none", "learning rates over the run", flag=False, choices=("none", "linear", "cosine")
    )
    ptx_coef: float = setting(0.0, "γ of PPO-ptx, weight of the pretraining loss", at_least=0, common=False)
    ptx_examples: int = setting(8, "pretraining examples per completion", at_least=1, flag=False)
    ema_decay: float = setting(
        0.0, "decay of averaged weights, saved beside the raw ones (0: none)", at_least=0, below=1, flag=False
    )
    max_grad_norm: float = setting(1.0, "largest gradient norm", above=0, flag=False)
    adam_eps: float = setting(1e-5, "Adam's ε", above=0, flag=False)
    save_every: int = setting(
        10, "iterations between saves of the training state", at_least=0, flag=False, decides=False
    )
    keep_every: int = setting(
        0,
        "iterations between policies kept under checkpoints/ of the result (0: none)",
        at_least=0,
        flag=False,
    )
    keep_state: bool = setting(
        False, "keep the training state in the result, so that --extend can go on", flag=False, decides=False
    )
    eval_every: int = setting(
        0,
        "iterations between evaluations on held-out prompts, by which the best policy is kept (0: none)",
        at_least=0,
        flag=False,
    )
    report_to: str = setting(
        "none",
        "where transformers logs to beside our TensorBoard files, such as trackio,wandb",
        decides=False,
        common=False,
    )
    samples_every: int = setting(
        0,
        "iterations between those whose completions go to samples.jsonl (0: none)",
        at_least=0,
        flag=False,
        decides=False,
    )
    last_blocks: int = setting(0, LAST_BLOCKS, at_least=0, common=False)
    gradient_checkpointing: bool = setting(False, GRADIENT_CHECKPOINTING, flag=False, decides=False)
    bf16: str = setting("auto", "bfloat16 products", flag=False, choices=("auto", "on", "off"))
    shard: str = sharding()
    seed: int = seeding()

    @property
    def num_iterations(self) -> int:
        """Iterations of a whole run; the last has fewer completions where episodes say so."""
        return -(-self.episodes // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class PPOSettings(PPOConfig, ReadingSettings):
    """PPO against a reward."""

    policy: str = setting("sft", "policy to start from, and the reference", place=True)
    reward: str = setting("reward", "reward model, several with commas between, or module:function")
    prompts: str | None = setting(None, "prompts (default: the starter world's)", place=True)
    eval_prompts: str | None = setting(
        None,
        "prompts to evaluate on, at most a batch (default: a tenth of prompts, held out)",
        common=False,
        place=True,
    )
    name: str = naming()
    template_kwargs: str = setting("", TEMPLATE_KWARGS, common=False)
    lora_rank: int = setting(
        0, "train adapters of this rank, reference being the policy without (0: all weights)", at_least=0
    )
    ptx_data: str | None = setting(
        None, "plain text for PPO-ptx (default: the starter corpus)", common=False, place=True
    )
    extend: str | None = setting(
        None, "finished run with keep_state to make longer, to so many episodes in all", common=False
    )


@dataclass(frozen=True, kw_only=True)
class AlignDataSettings(ReadingSettings):
    """What `rlhf align` divides between its stages; files are relative to --data, several with commas between."""

    demonstrations: str = setting("", "demonstrations", flag=False)
    rankings: str = setting("", "rankings and comparisons", flag=False)
    test_rankings: str = setting("", "rankings to measure on only", flag=False)
    prompts: str = setting("", "further prompts, beside those of all files above", flag=False)
    texts: str = setting("", "plain text, for PPO-ptx and to measure the loss on", flag=False)
    tasks: str = setting("", "instructions to put constraints on that a program can check", flag=False)
    gold_share: float = setting(
        0.3, "share of the conversations for the gold reward model", at_least=0, below=1, flag=False
    )
    validation_share: float = setting(
        0.05, "share of the conversations to validate on", at_least=0, below=1, flag=False
    )
    test_share: float = setting(0.1, "share of the conversations to test on", at_least=0, below=1, flag=False)
    num_demonstrations: int = setting(1000, "demonstrations to train on", at_least=1, flag=False)
    num_rankings: int = setting(0, "rankings to train each reward model on (0: all)", at_least=0, flag=False)
    num_prompts: int = setting(4000, "prompts for PPO", at_least=1, flag=False)
    constrained_share: float = setting(
        0.0,
        "share of PPO's prompts with a constraint that a program checks, which is then a reward beside the reward model",
        at_least=0,
        at_most=1,
        flag=False,
    )
    num_test_prompts: int = setting(320, "prompts to judge the models on", at_least=1, flag=False)
    num_measured: int = setting(
        100, "rankings of each source to validate and to test on", at_least=0, flag=False
    )
    max_prompt_tokens: int = setting(128, "longest prompt to sample from, in tokens", at_least=1, flag=False)
