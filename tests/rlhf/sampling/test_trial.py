"""Families that differ in what they keep between tokens: sampled right whichever way a trial chooses, or refused with the reason."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    MambaConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from rlhf.errors import InputError
from rlhf.learning.passes import completion_logprobs, text_logprobs
from rlhf.learning.rollout import Rollout
from rlhf.sampling.generate import SamplingSettings, generate
from rlhf.sampling.model_decoder import CacheUse, ModelDecoder, TextDecoder
from rlhf.sampling.trial import cache_use, check_causal, check_trainable, forward_decoder
from rlhf.serving.completions import Done, Request
from rlhf.serving.engine import PREFILL_TOKENS, Engine
from rlhf.serving.scoring import score_text
from stages.cli import main
from stages.ppo.trainer import PPOTrainer
from tests.slow.tiny_architectures import tiny_model
from tests.tiny_ppo import PROMPTS, TOKENIZER, config, count_e, quiet, scalar

SIZES = {
    "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
STATES = {"vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
CONFIGS = {
    "keys by place": LlamaConfig(**SIZES, num_key_value_heads=2),
    "a state": MambaConfig(**STATES, state_size=8),
    "a state of heads": Mamba2Config(**STATES, state_size=8, num_heads=8, head_dim=8, n_groups=2, chunk_size=8),
    "states and keys, with experts": JambaConfig(
        **SIZES | {"num_hidden_layers": 4, "pad_token_id": 0}, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1,
        num_experts=4, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=8, use_mamba_kernels=False,
    ),
    "linear attention and keys": Qwen3NextConfig(
        **SIZES | {"num_hidden_layers": 4}, **LINEAR, **EXPERTS, num_key_value_heads=2, head_dim=8,
    ),
    "convolutions and keys": Lfm2Config(
        **SIZES, num_key_value_heads=2, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False,
    ),
    "states in the layers themselves": RecurrentGemmaConfig(
        **SIZES | {"num_hidden_layers": 3, "pad_token_id": 0}, lru_width=32, attention_window_size=64, num_key_value_heads=1,
    ),
    "a state handed on": RwkvConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=512,
    ),
}  # fmt: skip


def model_of(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()


@pytest.fixture(params=CONFIGS)
def model(request):
    return model_of(request.param)


@torch.no_grad()
def test_sampling_gives_the_log_probabilities_of_training(model):
    prompts = [[3 + i % 7, *range(4, 4 + i % 5), 9][: 1 + i % 6] for i in range(12)]
    stops = frozenset(range(0, TOKENIZER.vocab_size, 4))  # so that rows leave and others come
    settings = SamplingSettings(max_new_tokens=7)
    samples = generate(model, prompts, settings, stop_ids=stops, seed=0, batch_size=4)
    rollout = Rollout.from_samples(prompts, samples, pad_id=0)
    assert len({len(each.tokens) for each in samples}) > 2
    assert torch.allclose(completion_logprobs(model, rollout), rollout.logprobs, atol=1e-4)


def test_requests_are_answered_at_once_as_they_are_one_by_one(model):
    def answers(rows):
        engine, told = Engine(model, TOKENIZER, max_rows=rows), {}
        for key, text in enumerate(PROMPTS[:3]):
            long = ({"role": "user", "content": text * (20 if key else 1)},)
            engine.submit(str(key), Request(messages=long, temperature=0, max_new_tokens=5))
        while engine.num_requests:
            for key, event in engine.step():
                told.setdefault(key, []).append(event)
        return {
            key: ["".join(getattr(e, "text", "") for e in events), type(events[-1])]
            for key, events in told.items()
        }

    together, alone = answers(3), answers(1)
    assert together == alone and all(end is Done for _, end in together.values())


@torch.no_grad()
def test_a_long_text_is_scored_as_in_training(model):
    tokens = [5 + i * i % 200 for i in range(PREFILL_TOKENS + 20)]
    reading = score_text(Engine(model, TOKENIZER, max_rows=1), tokens, 1)
    with pytest.raises(StopIteration) as ended:
        while True:
            next(reading)
    infos = torch.tensor([info.logprob for info in ended.value.value[1]])
    assert torch.allclose(infos, text_logprobs(model, torch.tensor([tokens]))[0], atol=1e-4)


def test_the_trial_chooses_the_cache_where_rows_can_share_it():
    for kind in (
        "keys by place",
        "a state of heads",
        "states and keys, with experts",
        "convolutions and keys",
    ):
        assert isinstance(forward_decoder(model_of(kind)), ModelDecoder), kind
    for kind in ("states in the layers themselves", "a state handed on"):
        assert isinstance(forward_decoder(model_of(kind)), TextDecoder), kind


def test_a_trial_leaves_the_model_and_its_random_numbers_as_they_were():
    model = model_of("a state").train()
    torch.manual_seed(7)
    cache_use(model)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert model.training and torch.equal(torch.rand(3), drawn)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_cache_that_is_wrong_for_padding_is_not_padded():
    class Shifted(type(model_of("keys by place"))):
        """Numbers places by what the cache holds, whatever stands in the mask."""

        def forward(
            self, input_ids=None, past_key_values=None, use_cache=None, attention_mask=None, logits_to_keep=0
        ):
            return super().forward(
                input_ids, past_key_values=past_key_values, use_cache=use_cache, logits_to_keep=logits_to_keep
            )

    torch.manual_seed(0)
    assert cache_use(Shifted(CONFIGS["keys by place"]).eval()) != CacheUse()


def encoder():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(BertConfig(**SIZES | {"pad_token_id": 0})).eval()


def test_what_looks_ahead_is_refused_before_anything_is_trained():
    with pytest.raises(
        InputError, match=r"BertLMHeadModel .transformers 5.*no causal language model.*is_decoder"
    ):
        check_causal(encoder())
    with pytest.raises(InputError):
        PPOTrainer(
            config(),
            processing_class=TOKENIZER,
            model=encoder(),
            reward_model=count_e,
            train_dataset=PROMPTS,
            say=quiet,
        )


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_weight_that_is_no_number_is_what_is_named(number):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    with torch.no_grad():
        model.lm_head.weight[5, 0] = float(number)
    for ask in (check_causal, cache_use):
        with pytest.raises(
            InputError, match=r"logits are no numbers \(nan or inf\): its weights are damaged"
        ):
            ask(model)


def test_a_model_of_other_inputs_is_refused_with_what_it_says():
    class Ears(type(model_of("keys by place"))):
        def forward(self, input_ids=None, **kwargs):
            raise ValueError("input_features are missing\nand more")

    with pytest.raises(
        InputError, match=r"cannot read a text of plain tokens: ValueError: input_features are missing$"
    ):
        check_causal(Ears(CONFIGS["keys by place"]))


class RoughHead(torch.nn.Linear):
    """A head whose logits depend on the number of its rows by `error` of their spread, as rounding of deep models does."""

    error = 0.0

    def forward(self, states):
        logits = super().forward(states)
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(states[..., 0].numel()))
        return logits + self.error * logits.std() * noise


def rough(model, error):
    head = model.get_output_embeddings()
    head.__class__, head.error = RoughHead, error
    return model.eval()


@pytest.mark.parametrize("error", [0.0, 4e-5, 1e-4])
def test_rounding_by_the_number_of_rows_is_no_look_ahead(error):
    """Gemma 3 270M's logits are off by 4e-5 of their spread where nothing but the number of rows differs."""
    torch.manual_seed(0)
    model = rough(LlamaForCausalLM(CONFIGS["keys by place"]), error)
    check_causal(model)
    assert cache_use(model) == CacheUse(padded=True, pieces=True)


@pytest.mark.parametrize("error", [4e-5, 1.0])
def test_no_rounding_excuses_a_model_that_looks_ahead(error):
    torch.manual_seed(0)
    config = BertConfig(**SIZES | {"pad_token_id": 0, "vocab_size": TOKENIZER.vocab_size})
    model = rough(AutoModelForCausalLM.from_config(config), error)
    with pytest.raises(InputError, match="is no causal language model"):
        check_causal(model)


@pytest.mark.parametrize("in_training", [True, False])
def test_a_model_without_a_gradient_of_short_texts_is_refused_before_it_learns(in_training):
    """Reformer: in training every text is as long as its table of places, in evaluation there is no gradient."""
    model = tiny_model("reformer")
    check_causal(model)
    with pytest.raises(
        InputError, match=r"ReformerModelWithLMHead .* cannot learn from a text of plain tokens: "
    ):
        check_trainable(model, in_training)
    assert not model.training


def test_a_trial_of_learning_leaves_the_model_as_it_was():
    model = model_of("keys by place")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    check_trainable(model)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert not model.training and torch.equal(torch.rand(3), drawn)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_stage_refuses_a_model_that_cannot_learn_in_the_first_second(tmp_path, capsys):
    folder = tmp_path / "reformer"
    tiny_model("reformer").save_pretrained(folder)
    TOKENIZER.save(folder)
    for name, columns in (("d", ("prompt", "completion")), ("r", ("prompt", "chosen", "rejected"))):
        rows = [{column: f"{column[0]}{i}" for column in columns} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store, data = ["--store", str(tmp_path / "store")], str(tmp_path / "d.jsonl")
    assert main([*store, "labels", "import", str(tmp_path / "r.jsonl"), "--batch", "b"]) == 0
    for command in (["sft", "--base", str(folder), "--data", data], ["reward", "--init", str(folder)]):
        assert main([*store, *command]) == 2
        assert "cannot learn from a text of plain tokens" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot learn from a text of plain tokens"):
        PPOTrainer(
            config(episodes=4, batch_size=4), processing_class=TOKENIZER, model=tiny_model("reformer"), reward_model=count_e,
            value_model=scalar(), train_dataset=PROMPTS, say=quiet,
        )  # fmt: skip
