"""A PPO small enough to run in a tenth of a second: models of two blocks, six prompts, rewards that can be reached."""

import pytest
import torch
from peft import LoraConfig
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from stages.ppo.trainer import PPOConfig, PPOTrainer

TEXTS = ["The red kite is in the park. Tom has a blue boat. Say one two three four. The dog barks."] * 5
TOKENIZER = train_tokenizer(TEXTS, 300)
PROMPTS = ["one", "Say two", "The red kite", "Tom has a blue boat", "four", "The dog barks. Say three"]
CONFIG = {
    "episodes": 16, "batch_size": 8, "minibatch_size": 4, "max_new_tokens": 8, "bf16": "off", "warmup_iterations": 0,
}  # fmt: skip


def config(**more):
    return PPOConfig(**CONFIG | more)


def gpt2(**more):
    sizes = {
        "bos_token_id": None,
        "eos_token_id": TOKENIZER.eos_id,
        "vocab_size": TOKENIZER.vocab_size,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
    }
    return GPT2Config(**sizes | more)


def policy(**more):
    torch.manual_seed(0)
    return GPT(gpt2(**more))


def scalar(**more):
    torch.manual_seed(1)
    return ScalarGPT(gpt2(**more))


def quiet(line):
    pass


def trainer(args=None, **more):
    parts = {
        "processing_class": TOKENIZER, "model": policy(), "reward_model": scalar(), "train_dataset": PROMPTS, "say": quiet,
    }  # fmt: skip
    return PPOTrainer(args or config(), **parts | more)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def count_e(prompts, completions):
    """A reward that a policy can reach: how often the letter e stands in the answer."""
    return [float(text.count("e")) for text in completions]


def llama(**more):
    torch.manual_seed(2)
    return LlamaForCausalLM(llama_config(**more))


def llama_config(**more):
    sizes = {
        "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "num_labels": 1,
        "bos_token_id": None, "eos_token_id": TOKENIZER.eos_id, "pad_token_id": None,
    }  # fmt: skip
    return LlamaConfig(**sizes | more)


def scalar_llama(**more):
    torch.manual_seed(3)
    return LlamaForSequenceClassification(llama_config(**more))


def adapters(**more):
    return LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **more)


MODELS = {
    "gpt": lambda: {"model": policy()},
    "llama": lambda: {"model": llama(), "reward_model": scalar_llama()},
    "gpt with lora": lambda: {"model": policy(), "peft_config": adapters()},
    "llama with lora": lambda: {"model": llama(), "reward_model": scalar_llama(), "peft_config": adapters()},
    "dropout": lambda: {"model": policy(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()},
}


class OftenEnds:
    """The tokenizer with a quarter of its vocabulary ending an answer, so that rows leave the batch one by one."""

    stop_ids = frozenset(range(0, TOKENIZER.vocab_size, 4))

    def __getattr__(self, name):
        return getattr(TOKENIZER, name)


EVERYTHING = {
    "inner_epochs": 2, "whiten_rewards": True, "normalize_scores": True, "clip_scores": 2.0, "adaptive_kl": True,
    "ema_decay": 0.9, "ptx_coef": 0.5, "ptx_examples": 2, "episodes": 20,
}  # fmt: skip


def history_and_weights(args, **more):
    made = trainer(args, pretrain_dataset=TEXTS if args.ptx_coef else None, **more)
    return made.train(), made


def close_histories(one, other, tolerance):
    """Every logged number of every iteration, within a tolerance absolute and relative."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), name


def tiny_store(folder):
    """A checkpoint store with a random SFT model `sft` and a random reward model `reward`."""
    store = Store(folder)
    for stage, model in (("sft", policy()), ("reward", scalar())):
        with store.new(stage, "tiny", parents={}, settings={}, data={}, seed=0) as writer:
            model.save_pretrained(writer.path)
            TOKENIZER.save(writer.path)
    return store


def ppo_command(store, prompts, name, **settings):
    """Arguments of `python -m stages.cli` for a tiny `rlhf ppo` on prompts in a file."""
    chosen = CONFIG | {"name": name, "prompts": str(prompts)} | settings
    return [
        "ppo",
        "--store",
        str(store.root),
        *(part for key in chosen for part in ("--set", f"{key}={chosen[key]}")),
    ]
