"""Reward and value models of families for which transformers has no sequence classifier."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    OlmoeConfig,
    WhisperConfig,
)

from rlhf.errors import InputError
from rlhf.learning.passes import last_scores
from rlhf.models.checkpoints import load_scalar, new_scalar_model, scalar_from_policy

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
CONFIGS = [
    CohereConfig(**SIZES),
    GraniteConfig(**SIZES),
    OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_any_trunk_gets_a_scalar_head_that_is_saved_and_loaded(config, tmp_path):
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config).eval()
    scalar = scalar_from_policy(policy)
    ids, mask = torch.tensor([[3, 5, 7, 9], [4, 6, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    with torch.no_grad():
        hidden = policy.base_model(input_ids=ids[:1]).last_hidden_state[0, -1]
        scores = last_scores(scalar, ids, mask)
    assert scores[0] == pytest.approx((hidden @ scalar.score.weight[0]).item(), abs=1e-5)
    scalar.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(last_scores(load_scalar(tmp_path), ids, mask), scores, atol=1e-6)


def test_a_family_with_a_class_of_its_own_keeps_it():
    assert type(new_scalar_model(LlamaConfig(**SIZES, num_labels=1))) is LlamaForSequenceClassification


def test_what_is_no_language_model_is_refused():
    class NoLanguage(WhisperConfig):
        model_type = "nolanguage"

    with pytest.raises(InputError, match="no language model of this kind"):
        new_scalar_model(NoLanguage())


def test_a_classifier_of_two_labels_is_refused_as_a_reward_model(tmp_path):
    LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=2)).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"not a reward model, score.weight is \(2, 32\) in it, and \(1, 32\)"
    ):
        load_scalar(tmp_path)
