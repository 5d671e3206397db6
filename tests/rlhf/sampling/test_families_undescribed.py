"""Models with a described trunk's names and other parts inside are sampled by their own forward pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoConfig, Qwen3MoeConfig, Starcoder2Config

from rlhf.learning.passes import completion_logprobs
from rlhf.learning.rollout import Rollout
from rlhf.sampling.generate import SamplingSettings, generate

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
CONFIGS = [
    OlmoConfig(**SIZES), Starcoder2Config(**SIZES), MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, head_dim=8),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_sampling_gives_the_log_probabilities_of_training(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[3, 4, 5, 6], [7, 8]]
    samples = generate(model, prompts, SamplingSettings(max_new_tokens=6), stop_ids=frozenset(), seed=0)
    rollout = Rollout.from_samples(prompts, samples, pad_id=0)
    with torch.no_grad():
        assert torch.allclose(completion_logprobs(model, rollout), rollout.logprobs, atol=1e-4)
