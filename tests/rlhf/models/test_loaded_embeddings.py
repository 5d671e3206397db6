"""What is loaded is what was saved, the row of the padding token, too."""

import pytest
import torch

from rlhf.models.checkpoints import load_policy, load_scalar, new_scalar_model
from tests.slow.tiny_architectures import tiny_config, tiny_model


@pytest.mark.parametrize("name", ["youtu", "opt", "qwen2", "mbart", "gemma3_text", "gemma4_text"])
def test_the_padding_tokens_row_is_loaded_as_it_was_saved(tmp_path, name):
    torch.manual_seed(0)
    config = tiny_config(name)
    config.num_labels = 1
    models = {load_policy: tiny_model(name)}
    if name != "mbart":  # whose classifier has another head
        models[load_scalar] = new_scalar_model(config)
    for load, model in models.items():
        row = model.get_input_embeddings().weight[config.pad_token_id].detach().fill_(0.5)
        model.save_pretrained(tmp_path / load.__name__)
        loaded = load(tmp_path / load.__name__)
        assert torch.equal(loaded.get_input_embeddings().weight[config.pad_token_id], row)
        tokens = torch.tensor([[3, 1, 4, 1, 5]])
        torch.testing.assert_close(loaded(tokens).logits, model.eval()(tokens).logits, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
