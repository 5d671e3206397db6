"""A pipeline small enough for a test: two blocks, a few hundred tokens, and models of other makes beside our GPT."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from rlhf.store import Store
from rlhf.tokenizer import train_tokenizer
from stages import pretrain
from stages.settings import PretrainSettings

TEXTS = ["The red kite is in the park. Tom has a blue boat. User: Hello Assistant: The dog barks."] * 5


@pytest.fixture(scope="session")
def base_store(tmp_path_factory):
    """A store with one small base model."""
    store = Store(tmp_path_factory.mktemp("base") / "store")
    pretrain.run(tiny_pretraining(), store, say=lambda line: None)
    return store


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


@pytest.fixture(scope="session", params=["llama", "qwen"])
def foreign_model(request, tmp_path_factory):
    """A folder with a random Llama or Qwen and a tokenizer that knows nothing of ours."""
    folder = tmp_path_factory.mktemp(request.param)
    fast = train_tokenizer(TEXTS, 400).fast()
    fast.chat_template = None
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    small = {
        "vocab_size": len(fast), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "pad_token_id": fast.pad_token_id, "eos_token_id": fast.eos_token_id, "bos_token_id": fast.eos_token_id,
    }  # fmt: skip
    config = LlamaConfig(**small) if request.param == "llama" else Qwen2Config(**small)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
