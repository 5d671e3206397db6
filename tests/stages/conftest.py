"""A pipeline small enough for a test: two blocks, a few hundred tokens, and models of other makes beside our GPT."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config

from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from stages import pretrain
from stages.settings import PretrainSettings
from tests.conftest import made_once
from tests.rows import write

TEXTS = ["The red kite is in the park. Tom has a blue boat. User: Hello Assistant: The dog barks."] * 5


@pytest.fixture(scope="session")
def base_store(tmp_path_factory):
    """A store with one small base model, which one worker trains for all."""

    def train(folder):
        pretrain.run(tiny_pretraining(), Store(folder), say=lambda line: None)

    return Store(made_once(tmp_path_factory, "base_store", train))


def tiny_pretraining(**more):
    small = {
        "layers": 2,
        "width": 32,
        "heads": 2,
        "vocab_size": 600,
        "tokens": 40_000,
        "threads": 1,
        "name": "tiny",
    }
    return PretrainSettings(**small | more)


@pytest.fixture(scope="session", params=["gpt2", "llama", "qwen", "gemma"])
def foreign_model(request, tmp_path_factory):
    """A folder with a random model of that make and a tokenizer that knows nothing of ours."""
    folder = tmp_path_factory.mktemp(request.param)
    fast = train_tokenizer(TEXTS, 400).fast()
    fast.chat_template = None
    if request.param == "gemma":  # its turns end otherwise than its documents
        fast.eos_token, fast.chat_template = "<|endoftext|>", GEMMA_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(foreign_config(request.param, fast)).save_pretrained(folder)
    return folder


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|user|>' if message.role == 'user' else '<|assistant|>' }}"
    "{{ message.content | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def foreign_config(kind, fast):
    ends = {
        "pad_token_id": fast.pad_token_id,
        "eos_token_id": fast.eos_token_id,
        "bos_token_id": fast.bos_token_id,
    }
    if kind == "gpt2":
        return GPT2Config(vocab_size=len(fast), n_embd=32, n_layer=2, n_head=4, n_positions=256, **ends)
    small = {
        "vocab_size": len(fast), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, **ends,
    }  # fmt: skip
    if kind == "gemma":
        window = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
        return Gemma3TextConfig(head_dim=8, query_pre_attn_scalar=8, **window, **small)
    return LlamaConfig(**small) if kind == "llama" else Qwen2Config(**small)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Demonstrations, which serve as prompts too, and rankings."""
    folder = tmp_path_factory.mktemp("data")
    answers = {"completions": ["It is red.", "No.", "Blue boat"], "ranks": [0, 2, 1]}
    return {
        "demonstrations": str(write(folder / "d.jsonl", *[{"prompt": f"Say {i}", "completion": f"I say {i}."} for i in range(12)])),
        "rankings": str(write(folder / "r.jsonl", *[{"prompt": f"Which color has kite {i}?", **answers} for i in range(12)])),
    }  # fmt: skip
