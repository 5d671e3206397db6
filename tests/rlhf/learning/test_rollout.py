from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf.errors import InputError
from rlhf.learning import head
from rlhf.learning.passes import (
    completion_logprobs,
    completion_scores,
    completion_values,
    has_plain_head,
    last_scores,
    scores_by_length,
    text_logprobs,
)
from rlhf.learning.rollout import Experience, Rollout
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.padding import MOST_PADDING, PASS_TOKENS, batches_by_length, pad_tokens

V, PAD = 50, 7  # the pad id is also a usual token, so nothing may be found by looking for it
LAYOUT: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
}
WIDE: dict[str, Any] = {
    "vocab_size": V,
    "initializer_range": 0.4,
    "pad_token_id": PAD,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
ONE_LABEL: dict[str, Any] = {"num_labels": 1}


def gpt2(**changes: Any) -> GPT2Config:
    config: dict[str, Any] = {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "num_labels": 1,
        **changes,
    }
    dropout = (
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if "resid_pdrop" not in changes else {}
    )
    return GPT2Config(
        vocab_size=V, initializer_range=0.4, pad_token_id=PAD, **SPECIAL, **{**dropout, **config}
    )


POLICIES: dict[str, Callable[[], Any]] = {
    "GPT": lambda: GPT(gpt2()),
    "GPT2": lambda: GPT2LMHeadModel(gpt2()),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**LAYOUT, **WIDE, **SPECIAL)),
    "Gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**LAYOUT, **WIDE, **SPECIAL, final_logit_softcapping=2.0)
    ),
    "Cohere": lambda: CohereForCausalLM(
        CohereConfig(
            vocab_size=V, initializer_range=0.4, pad_token_id=PAD, logit_scale=0.1, **LAYOUT, **SPECIAL
        )
    ),
}
SCALARS: dict[str, Callable[[], Any]] = {
    "GPT": lambda: ScalarGPT(gpt2()),
    "GPT2": lambda: GPT2ForSequenceClassification(gpt2()),
    "Llama": lambda: LlamaForSequenceClassification(LlamaConfig(**LAYOUT, **WIDE, **SPECIAL, **ONE_LABEL)),
}


def build(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make().eval()


def sample(tokens: list[int], ended: bool = True) -> Any:
    return SimpleNamespace(tokens=tokens, logprobs=[-0.5 - token for token in tokens], ended=ended)


PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26], [PAD, 31, PAD]]
COMPLETIONS = [[14, PAD, 16, PAD], [27], [32, 33, 34, 35, 36]]


def rollout(round_to: int = 1) -> Rollout:
    return Rollout.from_samples(PROMPTS, [sample(said) for said in COMPLETIONS], PAD, round_to)


def one_by_one(work: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """work(tokens (1, S), prompt length) for each sequence alone, without padding."""
    with torch.no_grad():
        pairs = zip(PROMPTS, COMPLETIONS, strict=True)
        return [work(torch.tensor([prompt + said]), len(prompt)) for prompt, said in pairs]


def check(given: Tensor, wanted: list[Tensor]) -> None:
    """given (B, T): each row is wanted and then exactly zero."""
    for row, values in zip(given, wanted, strict=True):
        torch.testing.assert_close(row[: len(values)], values, atol=2e-5, rtol=2e-5)
        assert not row[len(values) :].any()


def test_pad_tokens_by_hand() -> None:
    tokens, attention_mask = pad_tokens([[1, 2, 3], [4], []], pad_id=0)
    assert tokens.tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]] and tokens.dtype == torch.int64
    assert attention_mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]


@pytest.mark.parametrize(("round_to", "width"), [(1, 3), (2, 4), (3, 3), (8, 8)])
def test_pad_tokens_rounds_up(round_to: int, width: int) -> None:
    tokens, attention_mask = pad_tokens([[1, 2, 3], [4]], 9, round_to)
    assert tokens.shape == attention_mask.shape == (2, width)
    assert tokens[~attention_mask].tolist() == [9] * (2 * width - 4)


def test_a_rollout_by_hand() -> None:
    given = Rollout.from_samples([[1, 2], [3]], [sample([4]), sample([5, 6, 0], ended=False)], pad_id=0)
    assert given.tokens.tolist() == [[1, 2, 4, 0], [3, 5, 6, 0]]
    assert given.attention_mask.tolist() == [[True, True, True, False], [True] * 4]
    assert given.mask.tolist() == [[True, False, False], [True, True, True]]
    assert given.logprobs.tolist() == [[-4.5, 0.0, 0.0], [-5.5, -6.5, -0.5]]
    assert given.logprobs.dtype == torch.float32
    assert given.ended.tolist() == [True, False]
    assert given.prompt_lengths.tolist() == [2, 1]
    assert (len(given), given.num_tokens) == (2, 4)


def test_only_a_completion_that_was_cut_off_is_closed_and_nothing_but_its_row_shows_it() -> None:
    samples = [sample([4]), sample([5, 6, 0], ended=False)]
    plain = Rollout.from_samples([[1, 2], [3]], samples, pad_id=0)
    given = Rollout.from_samples([[1, 2], [3]], samples, pad_id=0, end_id=9)
    assert given.tokens.tolist() == [[1, 2, 4, 0, 0], [3, 5, 6, 0, 9]]
    assert given.attention_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert given.select([1]).tokens.tolist() == [[3, 5, 6, 0, 9]] and given.select([0]).tokens.tolist() == [
        [1, 2, 4]
    ]
    for name in ("completions", "num_tokens"):
        assert getattr(given, name) == getattr(plain, name), name
    for name in ("mask", "logprobs", "ended", "prompt_lengths"):
        assert torch.equal(getattr(given, name), getattr(plain, name)), name


def test_both_widths_of_a_rollout_round_up() -> None:
    given = rollout(round_to=4)  # longest row 8, longest completion 5
    assert given.tokens.shape == (3, 8) and given.mask.shape == given.logprobs.shape == (3, 8)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="prompt 2 is empty"):
        Rollout.from_samples([[1], []], [sample([4]), sample([5])], pad_id=0)


@pytest.mark.parametrize("round_to", [1, 3])
def test_selected_rows_are_those_sampled_alone(round_to: int) -> None:
    given = rollout(round_to).select([1, 0])
    wanted = Rollout.from_samples(
        [PROMPTS[1], PROMPTS[0]], [sample(COMPLETIONS[1]), sample(COMPLETIONS[0])], PAD, round_to
    )
    assert (given.prompts, given.completions) == (wanted.prompts, wanted.completions)
    for name in ("tokens", "attention_mask", "mask", "logprobs", "ended", "prompt_lengths"):
        assert torch.equal(getattr(given, name), getattr(wanted, name)), name


def experience(num_rows: int = 5) -> Experience:
    """Row i has i + 1 tokens, values i, advantages 10 i, returns 100 i."""
    before = Rollout.from_samples(
        [[i] for i in range(num_rows)], [sample([i] * (i + 1)) for i in range(num_rows)], PAD
    )
    values = torch.where(before.mask, torch.arange(num_rows)[:, None], 0).float()
    return Experience(before, values, 10 * values, 100 * values)


def test_each_epoch_sees_every_row_once_in_another_order() -> None:
    parts = list(experience().shuffled(2, epochs=2, generator=torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [2, 2, 1, 2, 2, 1]  # the partial one is not dropped
    rows = [prompt[0] for part in parts for prompt in part.rollout.prompts]
    assert sorted(rows[:5]) == sorted(rows[5:]) == [0, 1, 2, 3, 4]
    assert rows[:5] != rows[5:]
    again = experience().shuffled(2, epochs=2, generator=torch.Generator().manual_seed(0))
    assert [prompt[0] for part in again for prompt in part.rollout.prompts] == rows


def test_a_minibatch_keeps_what_belongs_together() -> None:
    for part in experience().shuffled(2, epochs=1, generator=torch.Generator().manual_seed(1)):
        for k, (row,) in enumerate(part.rollout.prompts):
            assert part.values.shape == part.advantages.shape == part.returns.shape == part.rollout.mask.shape
            assert part.values[k].sum() == row * (row + 1)
            assert part.advantages[k].sum() == 10 * row * (row + 1)
            assert part.returns[k].sum() == 100 * row * (row + 1)


def test_parts_of_a_minibatch_add_up_to_its_tokens() -> None:
    parts = experience().split(2)
    assert [part.num_tokens for part in parts] == [9, 5, 1]
    assert experience().num_tokens == 15 == int(experience().rollout.mask.sum())


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 64))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], batch_size: int) -> None:
    batches = list(batches_by_length(lengths, batch_size))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    order = [lengths[place] for batch in batches for place in batch]
    assert order == sorted(order, reverse=True)
    for batch in batches:
        long = [lengths[place] for place in batch]
        assert 0 < len(batch) <= batch_size
        assert len(long) * max(long) - sum(long) <= max(PASS_TOKENS, MOST_PADDING * len(long) * max(long))


def test_rows_of_one_length_are_not_divided() -> None:
    assert [len(batch) for batch in batches_by_length([128] * 40, 16)] == [16, 16, 8]


def test_an_update_computes_little_more_than_the_real_tokens() -> None:
    torch.manual_seed(0)
    lengths = torch.distributions.LogNormal(3.5, 0.8).sample((256,)).long().clamp(2, 400)
    before = Rollout.from_samples([[1]] * 256, [sample([2] * int(n)) for n in lengths], PAD, round_to=8)
    nothing = torch.zeros(before.mask.shape)
    shuffled = Experience(before, nothing, nothing, nothing).shuffled(64, epochs=1)
    parts = [part for minibatch in shuffled for part in minibatch.split(64)]
    assert sum(part.num_tokens for part in parts) == int(lengths.sum())
    assert sum(part.rollout.tokens.numel() for part in parts) < 1.35 * int(lengths.sum() + 256)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", POLICIES)
def test_logprobs_and_entropy_are_those_of_each_sequence_alone(name: str, temperature: float) -> None:
    model = build(POLICIES[name])

    def distributions(tokens: Tensor, length: int) -> Tensor:
        return (model(input_ids=tokens).logits / temperature).log_softmax(-1)[0, length - 1 : -1]

    tables = one_by_one(distributions)
    with torch.no_grad():
        logprobs, entropies = completion_logprobs(model, rollout(4), temperature, with_entropy=True)
        alone = completion_logprobs(model, rollout(4), temperature)
    chosen = [
        table.gather(1, torch.tensor(said)[:, None])[:, 0]
        for table, said in zip(tables, COMPLETIONS, strict=True)
    ]
    check(logprobs, chosen)
    check(entropies, [-(table.exp() * table).sum(1) for table in tables])
    assert torch.equal(alone, logprobs) and logprobs.dtype == torch.float32


@pytest.mark.parametrize("name", ["GPT", "Gemma2"])
def test_the_entropys_gradient_is_that_of_plain_logits(name: str) -> None:
    model, part = build(POLICIES[name]), rollout(1).select([0])
    logprobs, entropies = completion_logprobs(model, part, 0.7, with_entropy=True)
    model.zero_grad()
    (2 * entropies - logprobs).sum().backward()
    given = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    logits = model(input_ids=torch.tensor([PROMPTS[0] + COMPLETIONS[0]])).logits[0, len(PROMPTS[0]) - 1 : -1]
    table = (logits / 0.7).log_softmax(-1)
    chosen = table.gather(1, torch.tensor(COMPLETIONS[0])[:, None])
    model.zero_grad()
    (-2 * (table.exp() * table).sum() - chosen.sum()).backward()
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert len(given) == len(wanted)
    for got, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_logprobs_of_text_and_their_gradients_are_those_of_plain_logits(name: str) -> None:
    model, tokens = build(POLICIES[name]), torch.tensor([[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]])

    def gradients(logprobs: Tensor) -> list[Tensor]:
        model.zero_grad()
        (-logprobs.mean()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    given = text_logprobs(model, tokens)
    mine = gradients(given)
    table = model(input_ids=tokens[:, :-1]).logits.float().log_softmax(-1)
    wanted = table.gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(given, wanted, atol=2e-5, rtol=2e-5)
    for got, want in zip(mine, gradients(wanted), strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_the_head_runs_on_real_completion_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build(POLICIES["Llama"]), []
    has_plain_head(model)
    real = head.entropies_of
    monkeypatch.setattr(head, "entropies_of", lambda x, t: seen.append(tuple(x.shape)) or real(x, t))
    with torch.no_grad():
        completion_logprobs(model, rollout(8), with_entropy=True)
    assert seen == [(10, V)]


@pytest.mark.parametrize(
    ("name", "plain"),
    [("GPT", True), ("GPT2", True), ("Llama", True), ("Gemma2", False), ("Cohere", False)],
)
def test_a_head_with_something_after_it_is_noticed_even_when_all_zero(name: str, plain: bool) -> None:
    model = build(POLICIES[name])
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    assert has_plain_head(model) is plain


def test_watching_the_head_draws_no_random_numbers_and_leaves_the_model_alone() -> None:
    model = build(lambda: GPT2LMHeadModel(gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))).train()
    tokens = torch.tensor([PROMPTS[1]])
    torch.manual_seed(3)
    before = model(input_ids=tokens).logits
    torch.manual_seed(3)
    has_plain_head(model)
    assert torch.equal(model(input_ids=tokens).logits, before)


def test_greedy_sampling_has_the_logprobs_of_temperature_1() -> None:
    model = build(POLICIES["GPT"])
    assert torch.equal(completion_logprobs(model, rollout(), 0), completion_logprobs(model, rollout(), 1))


def test_gradients_reach_trunk_and_head_as_in_a_plain_loss() -> None:
    model = build(POLICIES["GPT2"])
    completion_logprobs(model, rollout(4)).sum().backward()
    given = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for prompt, said in zip(PROMPTS, COMPLETIONS, strict=True):
        table = model(input_ids=torch.tensor([prompt + said])).logits[0].log_softmax(-1)
        for t, token in enumerate(said):
            table[len(prompt) - 1 + t, token].backward(retain_graph=True)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(given[name], parameter.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_lora_adapters_count() -> None:
    peft = pytest.importorskip("peft")
    model = build(
        lambda: peft.get_peft_model(
            build(POLICIES["Llama"]),
            peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj", "lm_head"]),
        )
    )

    def chosen(tokens: Tensor, length: int) -> Tensor:
        table = model(input_ids=tokens).logits.log_softmax(-1)[0, length - 1 : -1]
        return table.gather(1, tokens[0, length:, None])[:, 0]

    assert has_plain_head(model)
    check(completion_logprobs(model, rollout()), one_by_one(chosen))
    with model.disable_adapter():
        check(completion_logprobs(model, rollout()), one_by_one(chosen))


def test_soft_prompts_count() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = build(lambda: peft.get_peft_model(GPT2LMHeadModel(gpt2()), settings))

    def chosen(tokens: Tensor, length: int) -> Tensor:
        table = model(input_ids=tokens).logits.log_softmax(-1)[0, 3 + length - 1 : -1]
        return table.gather(1, tokens[0, length:, None])[:, 0]

    check(completion_logprobs(model, rollout()), one_by_one(chosen))


def test_a_model_that_always_gives_all_its_logits_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(POLICIES["Gemma2"])
    wanted = completion_logprobs(model, rollout())
    monkeypatch.setattr(model, "_supports_logits_to_keep", lambda: False)
    torch.testing.assert_close(completion_logprobs(model, rollout()), wanted)


@pytest.mark.parametrize("name", SCALARS)
def test_values_are_those_of_the_state_before_each_token(name: str) -> None:
    model = build(SCALARS[name])

    def values(tokens: Tensor, length: int) -> Tensor:
        # the state before token t is the sequence cut off in front of it
        states = [model.base_model(tokens[:, :end]) for end in range(length, tokens.shape[1])]
        return torch.stack([model.score(state.last_hidden_state[0, -1])[0] for state in states])

    given = completion_values(model, rollout(4))
    check(given, one_by_one(values))
    assert given.dtype == torch.float32 and given.requires_grad


@pytest.mark.parametrize("name", SCALARS)
def test_scores_are_read_at_the_last_real_token(name: str) -> None:
    model = build(SCALARS[name])
    wanted = one_by_one(
        lambda tokens, _: model.score(model.base_model(tokens).last_hidden_state[0, -1])
    )  # row 0 ends with the pad id
    torch.testing.assert_close(completion_scores(model, rollout(8)), torch.cat(wanted), atol=2e-5, rtol=2e-5)


def test_an_encoder_scores_whole_rows_and_has_no_values() -> None:
    config = RobertaConfig(vocab_size=V, initializer_range=0.4, pad_token_id=1, **LAYOUT, **ONE_LABEL)
    model = build(lambda: RobertaForSequenceClassification(config))
    wanted = one_by_one(lambda tokens, _: model(input_ids=tokens).logits[0])
    torch.testing.assert_close(completion_scores(model, rollout(8)), torch.cat(wanted), atol=2e-5, rtol=2e-5)
    with pytest.raises(InputError, match="no head `score`"):
        completion_values(model, rollout())


@pytest.mark.parametrize("lengths", [[3], [9, 1, 30, 2, 17, 9, 8, 40, 5, 6, 7], [12] * 6])
def test_scores_in_parts_by_length_are_those_of_all_rows_at_once(lengths: list[int]) -> None:
    torch.manual_seed(0)
    model = ScalarGPT(gpt2()).eval()
    tokens, mask = pad_tokens([torch.randint(0, V, (n,)).tolist() for n in lengths], PAD, round_to=8)
    gradients = []
    for scores in (last_scores(model, tokens, mask), scores_by_length(model, tokens, mask)):
        gradients.append(torch.autograd.grad(scores.square().sum(), model.transformer.wte.weight)[0])
    torch.testing.assert_close(scores_by_length(model, tokens, mask), last_scores(model, tokens, mask))
    torch.testing.assert_close(*gradients)
