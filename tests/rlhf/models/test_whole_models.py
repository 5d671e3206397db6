"""What is loaded is what its files say and no other model, and saved and loaded again it is the same."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

from rlhf.errors import InputError
from rlhf.learning.linear_probe import FILE as HEADS
from rlhf.learning.linear_probe import load_heads
from rlhf.models.adapters import FOLDER, NOTE, reward_model_over, save_plain, with_adapters
from rlhf.models.checkpoints import load_policy, load_scalar, reward_offset, scalar_from_policy
from rlhf.models.gpt import GPT
from rlhf.models.offload import load_offloaded
from rlhf.models.tokenizer import load_tokenizer

SIZE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def llama(**more):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE | {"tie_word_embeddings": False} | more)).eval()


def gpt(**more):
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, n_positions=64, **ends, **more)
    ).eval()


@torch.no_grad()
def logits(model):
    return model(torch.arange(20)[None] % 60).logits.float()


def changed(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def rewritten(folder, change):
    """The folder with other weights in its file."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def in_fp8(weights):
    """As FP8 checkpoints are: projections of 8 bits, and the scale of each of their tiles."""
    found = {}
    for name, weight in weights.items():
        found[name] = weight
        if "_proj" in name:
            scale = weight.abs().max() / 448
            found[name] = (weight / scale).to(torch.float8_e4m3fn)
            tiles = [-(-size // 16) for size in weight.shape]
            found[f"{name}_scale_inv"] = torch.full(tiles, float(scale))
    return found


@pytest.fixture
def fp8(tmp_path):
    folder = tmp_path / "fp8"
    llama().save_pretrained(folder)
    rewritten(folder, in_fp8)
    how = {
        "quant_method": "fp8",
        "weight_block_size": [16, 16],
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
    }
    changed(folder / "config.json", quantization_config=how)
    return folder


def test_a_model_of_fp8_weights_is_saved_as_it_was_computed_with(fp8, tmp_path):
    model = load_policy(fp8)
    wanted = logits(model)
    assert 0 < (wanted - logits(llama())).abs().max() < 1.5
    save_plain(model, tmp_path / "whole")
    save_plain(with_adapters(load_policy(fp8), 2), tmp_path / "merged")
    save_plain(AutoModelForCausalLM.from_pretrained(fp8, dtype=torch.float32), tmp_path / "given")
    for name in ("whole", "merged", "given"):
        weights = load_file(tmp_path / name / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert "quantization_config" not in json.loads((tmp_path / name / "config.json").read_text())
        torch.testing.assert_close(logits(load_policy(tmp_path / name)), wanted, rtol=0, atol=1e-5)
    scalar = scalar_from_policy(model)
    scalar.save_pretrained(tmp_path / "scalar")
    assert torch.equal(logits(load_scalar(tmp_path / "scalar")), logits(scalar))


def scales_without_config(folder):
    rewritten(folder, in_fp8)


def biases(weights):
    sizes = {"q": 32, "k": 16, "v": 16}
    return weights | {
        f"model.layers.{layer}.self_attn.{part}_proj.bias": torch.ones(size)
        for layer in range(2)
        for part, size in sizes.items()
    }


TOO_MUCH = {  # what is done to a folder, and what is said of it
    "scales that no config tells of": (scales_without_config, "model.layers.0.mlp.down_proj.weight_scale_inv and 13 more"),
    "biases that the config has off": (lambda f: rewritten(f, biases), "self_attn.k_proj.bias and 5 more"),
    "more layers than the config": (lambda f: changed(f / "config.json", num_hidden_layers=1), "model.layers.1.input_layernorm.weight and 8 more"),
    "the head of a reward model": (lambda f: rewritten(f, lambda w: w | {"score.weight": torch.ones(1, 32)}), "score.weight has no place"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_MUCH)
def test_weights_that_the_model_has_no_place_for_are_refused_by_name(case, tmp_path):
    change, said = TOO_MUCH[case]
    llama().save_pretrained(tmp_path)
    change(tmp_path)
    for load in (load_policy, load_offloaded):
        with pytest.raises(InputError) as refused:
            load(tmp_path)
        assert str(refused.value).startswith(f"{tmp_path}: not a whole language model, ")
        assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("family", [llama, gpt])
def test_a_reward_model_is_no_policy_though_its_head_would_be_the_embedding(family, tmp_path):
    scalar_from_policy(family(tie_word_embeddings=True)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"not a whole language model, score\.weight"):
        load_policy(tmp_path)
    assert load_scalar(tmp_path)


HARMLESS = {
    llama: {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "v_head.summary.weight": torch.ones(1, 32),
        "mtp.layers.0.input_layernorm.weight": torch.ones(32),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
    },
    gpt: {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "transformer.h.0.attn.masked_bias": torch.ones(1),
    },
}


@pytest.mark.parametrize("family", [llama, gpt])
def test_what_older_versions_stored_and_heads_that_others_use_do_not_matter(family, tmp_path):
    model = family()
    model.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: weights | HARMLESS[family])
    assert torch.equal(logits(load_policy(tmp_path)), logits(model))
    torch.testing.assert_close(logits(load_offloaded(tmp_path)), logits(model))


def test_layers_that_draft_further_tokens_are_left_out_where_the_config_counts_them(tmp_path):
    llama(num_hidden_layers=3).save_pretrained(tmp_path)
    changed(tmp_path / "config.json", num_hidden_layers=2, num_nextn_predict_layers=1)
    assert load_policy(tmp_path).config.num_hidden_layers == 2


def test_a_reward_model_may_have_the_head_that_it_had_as_a_language_model(tmp_path):
    scalar = scalar_from_policy(llama())
    scalar.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: weights | {"lm_head.weight": torch.ones(60, 32)})
    assert torch.equal(logits(load_scalar(tmp_path)), logits(scalar))


def test_an_adapter_beside_a_model_is_refused_and_never_put_over_it(tmp_path):
    folder = tmp_path / "model"
    with_adapters(llama(), 2).save_pretrained(tmp_path / "adapter")
    llama().save_pretrained(folder)
    scalar_from_policy(llama()).save_pretrained(tmp_path / "scalar")
    for each in (folder, tmp_path / "scalar"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(tmp_path / "adapter" / name, each)
    for load, each in ((load_policy, folder), (load_offloaded, folder), (load_scalar, tmp_path / "scalar")):
        with pytest.raises(
            InputError, match=f"{each}: adapter_config.json is an adapter.*merge it"
        ) as refused:
            load(each)
        assert "\n" not in str(refused.value)


def test_an_adapter_alone_is_named_as_one_with_a_tokenizer_and_without(tmp_path):
    with_adapters(llama(), 2).save_pretrained(tmp_path)
    for load in (load_tokenizer, load_policy, load_scalar):
        with pytest.raises(
            InputError, match=r"adapter_config.json is an adapter, over the base that it names"
        ):
            load(tmp_path)


def test_a_model_without_the_files_of_its_tokenizer_says_where_to_have_them(tmp_path):
    llama().save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"no tokenizer there: there is no tokenizer.json, nor .*; copy them"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("family", [llama, gpt])
def test_a_head_of_its_own_is_kept_though_the_config_says_tied(family, tmp_path):
    model, folder = family(tie_word_embeddings=False), tmp_path / "model"
    model.save_pretrained(folder)
    changed(folder / "config.json", tie_word_embeddings=True)
    found = load_policy(folder)
    assert torch.equal(logits(found), logits(model))
    torch.testing.assert_close(logits(load_offloaded(folder)), logits(model))
    found.tie_weights()  # as trainers call it
    save_plain(found, tmp_path / "saved")
    save_plain(with_adapters(load_policy(folder), 2), tmp_path / "merged")
    for name in ("saved", "merged"):
        assert json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"] is False
        assert torch.equal(logits(load_policy(tmp_path / name)), logits(model))
        torch.testing.assert_close(
            logits(AutoModelForCausalLM.from_pretrained(tmp_path / name)), logits(model)
        )


@pytest.mark.parametrize("family", [llama, gpt])
def test_a_tied_head_stays_tied_also_where_the_files_have_it_twice(family, tmp_path):
    model = family(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    table = model.get_input_embeddings().weight
    rewritten(tmp_path, lambda weights: weights | {"lm_head.weight": table.detach().clone()})
    for load in (load_policy, load_offloaded):
        found = load(tmp_path)
        assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
        assert found.config.tie_word_embeddings
        torch.testing.assert_close(logits(found), logits(model))


def test_code_that_a_checkpoint_brings_is_neither_run_nor_asked_about(tmp_path, capsys, monkeypatch):
    def asked(*_):
        raise AssertionError("a person was asked")

    monkeypatch.setattr("builtins.input", asked)
    llama().save_pretrained(tmp_path)
    own = {"AutoConfig": "configuration_my.MyConfig", "AutoModelForCausalLM": "modeling_my.MyModel"}
    changed(tmp_path / "config.json", model_type="mine", auto_map=own)
    (tmp_path / "configuration_my.py").write_text(f"open({str(tmp_path / 'RUN')!r}, 'w')")
    for load in (load_policy, load_scalar, load_offloaded):
        with pytest.raises(InputError, match="a model with code of its own, which is not run here"):
            load(tmp_path)
    assert not (tmp_path / "RUN").exists() and capsys.readouterr().out == ""


class Command:
    def __init__(self, line):
        self.line = line

    def __reduce__(self):
        return os.system, (self.line,)


def test_pickled_weights_are_read_but_nothing_that_runs(tmp_path):
    llama().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_policy(tmp_path).lm_head.weight, llama().lm_head.weight)
    torch.save({"x": Command(f"touch {tmp_path / 'RUN'}")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError, match="pickled with more than tensors in them, which may run code and is not"
    ):
        load_policy(tmp_path)
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize("offset", ["x", "3", None, [1], float("nan"), 1e39, 10**400])
def test_an_offset_that_no_score_can_have_is_refused(offset, tmp_path):
    scalar_from_policy(llama()).save_pretrained(tmp_path)
    changed(tmp_path / "config.json", reward_offset=offset)
    with pytest.raises(InputError, match=r"reward_offset is .*; it is the finite number added to each score"):
        load_scalar(tmp_path)
    changed(tmp_path / "config.json", reward_offset=-2)
    assert reward_offset(load_scalar(tmp_path)) == -2.0


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"sha256": "x", "reward_offset": "y"}'])
def test_what_lies_beside_a_reward_model_is_named_where_it_is_damaged(note, tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / NOTE).write_text(note)
    (tmp_path / HEADS).write_bytes(note.encode())
    for ask in (lambda: reward_model_over(tmp_path, llama()), lambda: load_heads(tmp_path)):
        with pytest.raises(InputError, match=f"{tmp_path}/") as refused:
            ask()
        assert "\n" not in str(refused.value)
