"""What holds for every batch: padding, order, neighbours and the split into micro-batches change no number."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.learning.losses import clip_fraction, policy_loss, value_loss
from rlhf.learning.passes import completion_logprobs, completion_scores, completion_values
from rlhf.learning.rl import explained_variance, gae, kl_k1, kl_k3, kl_shaped, masked_mean, rescale, whiten
from rlhf.learning.rollout import Experience, Rollout
from rlhf.models import padding
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.padding import pad_tokens

V = 40
quick = settings(max_examples=40)
few = settings(max_examples=10)  # where a model runs


@dataclass(frozen=True)
class Batch:
    """Numbers as PPO has them; scores (B,), the rest (B, T)."""

    scores: Tensor
    x: Tensor
    y: Tensor
    mask: Tensor

    def rows(self, indices: list[int]) -> "Batch":
        return Batch(self.scores[indices], self.x[indices], self.y[indices], self.mask[indices])

    def padded(self, columns: int, filling: float) -> "Batch":
        """With `columns` more columns, and all padding, old and new, replaced by `filling`."""
        B = len(self.scores)
        mask = torch.cat([self.mask, torch.zeros(B, columns, dtype=torch.bool)], 1)
        x, y = (torch.cat([z, torch.zeros(B, columns)], 1).where(mask, filling) for z in (self.x, self.y))
        return Batch(self.scores, x, y, mask)


@st.composite
def batches(draw: Any, smallest: int = 1) -> Batch:
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=smallest, max_size=5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    x, y = (torch.randn(mask.shape, generator=generator) for _ in range(2))
    return Batch(torch.randn(len(lengths), generator=generator), x, y, mask)


PER_TOKEN: dict[str, Callable[[Batch], Tensor]] = {  # (B, T); a row depends on this row alone
    "kl_shaped": lambda b: kl_shaped(b.scores, b.x, b.mask, 0.3),
    "advantages": lambda b: gae(b.x, b.y, b.mask, 0.9, 0.8)[0],
    "returns": lambda b: gae(b.x, b.y, b.mask, 0.9, 0.8)[1],
}
OVER_BATCH: dict[str, Callable[[Batch], Tensor]] = {  # (B, T); a row depends on the batch
    "whiten": lambda b: whiten(b.x, b.mask),
    "rescale": lambda b: rescale(b.x, b.mask),
}
SCALARS: dict[str, Callable[[Batch], Tensor]] = {  # ()
    "masked_mean": lambda b: masked_mean(b.x, b.mask),
    "mean_k1": lambda b: masked_mean(kl_k1(b.x, b.y), b.mask),
    "mean_k3": lambda b: masked_mean(kl_k3(b.x, b.y), b.mask),
    "clip_fraction": lambda b: masked_mean(clip_fraction(b.x, b.y, 0.2), b.mask),
    "explained_variance": lambda b: explained_variance(b.x, b.y, b.mask),
}


def same(got: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", PER_TOKEN | OVER_BATCH)
@quick
@given(batch=batches(), columns=st.integers(0, 4), filling=st.sampled_from([math.nan, math.inf, -1e30, 1.0]))
def test_more_padding_changes_no_token(name: str, batch: Batch, columns: int, filling: float) -> None:
    f = (PER_TOKEN | OVER_BATCH)[name]
    got, T = f(batch.padded(columns, filling)), batch.mask.shape[1]
    same(got[:, :T], f(batch))
    assert not got[:, T:].any() and not got[:, :T][~batch.mask].any()


@pytest.mark.parametrize("name", SCALARS)
@quick
@given(batch=batches(), columns=st.integers(0, 4), filling=st.sampled_from([math.nan, math.inf, -1e30, 1.0]))
def test_more_padding_changes_no_mean(name: str, batch: Batch, columns: int, filling: float) -> None:
    same(SCALARS[name](batch.padded(columns, filling)), SCALARS[name](batch))


@pytest.mark.parametrize("name", PER_TOKEN)
@quick
@given(batch=batches(smallest=2))
def test_a_sequence_does_not_depend_on_the_others(name: str, batch: Batch) -> None:
    whole = PER_TOKEN[name](batch)
    for row in range(len(batch.scores)):
        same(PER_TOKEN[name](batch.rows([row])), whole[row : row + 1])


@pytest.mark.parametrize("name", PER_TOKEN | OVER_BATCH | SCALARS)
@quick
@given(batch=batches(smallest=2), data=st.data())
def test_a_permuted_batch_gives_the_permuted_result(name: str, batch: Batch, data: Any) -> None:
    f = (PER_TOKEN | OVER_BATCH | SCALARS)[name]
    order = data.draw(st.permutations(range(len(batch.scores))))
    wanted = f(batch)
    same(f(batch.rows(order)), wanted[order] if wanted.dim() else wanted)


@quick
@given(batch=batches())
def test_score_lands_on_the_last_real_token(batch: Batch) -> None:
    rewards = kl_shaped(batch.scores, torch.zeros_like(batch.x), batch.mask, 0.3)
    for row, score, mask in zip(rewards, batch.scores, batch.mask, strict=True):
        assert row.nonzero().tolist() == [[int(mask.sum()) - 1]]
        assert row[int(mask.sum()) - 1] == score


@quick
@given(batch=batches())
def test_rewards_of_a_completion_add_up_to_its_objective(batch: Batch) -> None:
    rewards = kl_shaped(batch.scores, batch.x, batch.mask, 0.3)  # Ouyang et al. 2022, eq. 2
    same(rewards.sum(1), batch.scores - 0.3 * (batch.x * batch.mask).sum(1))


@quick
@given(batch=batches(), value=st.floats(-100, 100))
def test_values_after_the_end_do_not_reach_the_advantages(batch: Batch, value: float) -> None:
    after = batch.padded(2, value)
    advantages, _ = gae(after.x, after.y, after.mask, 1.0, 0.95)
    for row, x, y, mask in zip(advantages, batch.x, batch.y, batch.mask, strict=True):
        last = int(mask.sum()) - 1
        same(row[last], x[last] - y[last])  # the last real step has no successor


@quick
@given(batch=batches(smallest=2))
def test_whitened_real_tokens_have_mean_0_and_variance_1(batch: Batch) -> None:
    real = whiten(batch.padded(3, 1e6).x, batch.padded(3, 1e6).mask)[batch.padded(3, 1e6).mask]
    same(real.mean(), torch.tensor(0.0))
    same(real.var(unbiased=False), torch.tensor(1.0), 1e-4)  # float32 sums


@quick
@given(batch=batches())
def test_kl_against_oneself_is_0(batch: Batch) -> None:
    assert not kl_k1(batch.x, batch.x).any() and not kl_k3(batch.x, batch.x).any()
    same(kl_shaped(batch.scores, kl_k1(batch.x, batch.x), batch.mask, 0.3).sum(1), batch.scores)


@quick
@given(batch=batches())
def test_padding_has_no_loss_and_no_gradient(batch: Batch) -> None:
    zeroed = batch.padded(2, 0.0)  # what completion_logprobs, completion_values, gae and whiten put there
    new = (zeroed.x + 0.5 * zeroed.mask).requires_grad_()
    losses = policy_loss(new, zeroed.x, whiten(zeroed.y, zeroed.mask), 0.2) + value_loss(
        new, zeroed.x, zeroed.y, 0.2
    )
    losses.sum().backward()
    assert new.grad is not None
    assert not losses[~zeroed.mask].any() and not new.grad[~zeroed.mask].any()


SIZES: dict[str, Any] = {
    "vocab_size": V,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ONE_LABEL: dict[str, Any] = {"num_labels": 1}
OURS = GPT2Config(
    **SIZES, n_embd=16, n_layer=2, n_head=2, n_positions=48, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
)
LLAMA = LlamaConfig(
    **SIZES,
    **ONE_LABEL,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def models(kind: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    if kind == "ours":
        return GPT(OURS).train(), ScalarGPT(OURS).train()
    return LlamaForCausalLM(LLAMA).train(), LlamaForSequenceClassification(LLAMA).train()


MODELS = {kind: models(kind) for kind in ("ours", "llama")}
kinds = pytest.mark.parametrize("kind", MODELS)


def sampled(shapes: list[tuple[int, int]], seed: int, round_to: int = 1) -> Rollout:
    """Random tokens; shapes: (prompt length, completion length) per row. Those of an even length were cut off."""
    draw = torch.Generator().manual_seed(seed)
    prompts, samples = [], []
    for prompt, said in shapes:
        prompts.append(torch.randint(0, V, (prompt,), generator=draw).tolist())
        tokens = torch.randint(0, V, (said,), generator=draw).tolist()
        samples.append(SimpleNamespace(tokens=tokens, logprobs=[-1.0] * said, ended=said % 2 == 1))
    return Rollout.from_samples(prompts, samples, pad_id=0, round_to=round_to, end_id=V - 1)


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=5)


def passes(kind: str, rollout: Rollout) -> list[Tensor]:
    """Log-probabilities and entropies, values, scores."""
    policy, scalar = MODELS[kind]
    with torch.no_grad():
        logprobs, entropies = completion_logprobs(policy, rollout, 0.8, with_entropy=True)
        return [logprobs, entropies, completion_values(scalar, rollout), completion_scores(scalar, rollout)]


@kinds
@few
@given(shapes=shapes, seed=st.integers(0, 1000), round_to=st.sampled_from([5, 16]))
def test_more_padding_changes_no_pass_of_a_model(kind: str, shapes: list, seed: int, round_to: int) -> None:
    plain, padded = sampled(shapes, seed), sampled(shapes, seed, round_to)
    for wanted, got in zip(passes(kind, plain), passes(kind, padded), strict=True):
        if got.dim() == 2:
            assert not got[~padded.mask].any()
            got = got[:, : wanted.shape[1]]
        same(got, wanted)


@kinds
@few
@given(shapes=shapes, seed=st.integers(0, 1000))
def test_a_pass_over_a_sequence_does_not_depend_on_the_others(kind: str, shapes: list, seed: int) -> None:
    rollout = sampled(shapes, seed)
    whole = passes(kind, rollout)
    for row in range(len(rollout)):
        for wanted, got in zip(whole, passes(kind, rollout.select([row])), strict=True):
            same(got[0], wanted[row, : got.shape[1]] if got.dim() == 2 else wanted[row])


@kinds
@few
@given(shapes=shapes, seed=st.integers(0, 1000), data=st.data())
def test_a_permuted_rollout_gives_permuted_passes(kind: str, shapes: list, seed: int, data: Any) -> None:
    rollout = sampled(shapes, seed)
    order = data.draw(st.permutations(range(len(rollout))))
    for wanted, got in zip(passes(kind, rollout), passes(kind, rollout.select(order)), strict=True):
        same(got, wanted[order])


def ppo_gradients(kind: str, minibatch: Experience, micro_batch_size: int) -> list[Tensor]:
    return gradients_of_parts(kind, minibatch, minibatch.split(micro_batch_size))


def gradients_of_parts(kind: str, minibatch: Experience, parts: list[Experience]) -> list[Tensor]:
    policy, value_model = MODELS[kind]
    policy.zero_grad()
    value_model.zero_grad()
    for part in parts:
        logprobs = completion_logprobs(policy, part.rollout)
        loss = policy_loss(logprobs, part.rollout.logprobs, part.advantages, 0.2)
        values = completion_values(value_model, part.rollout)
        loss = loss + 0.1 * value_loss(values, part.values, part.returns, 0.2)
        (loss.sum() / minibatch.num_tokens).backward()
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for model in (policy, value_model)
        for p in model.parameters()
    ]


def experience(kind: str, rollout: Rollout) -> Experience:
    """What one iteration of PPO makes of a rollout, with sampled logprobs near the policy's."""
    logprobs, _, values, scores = passes(kind, rollout)
    near = torch.where(
        rollout.mask, logprobs + 0.3 * torch.sin(17 * logprobs), 0.0
    )  # some ratios are clipped
    rewards = kl_shaped(scores, logprobs + 2, rollout.mask, 0.1)
    advantages, returns = gae(rewards, values, rollout.mask, 1.0, 0.95)
    return Experience(replace(rollout, logprobs=near), values, whiten(advantages, rollout.mask), returns)


EIGHT = [(3, 2), (1, 6), (6, 1), (2, 2), (4, 5), (5, 3), (1, 1), (6, 6)]


@kinds
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 5])
def test_1x8_is_2x4_is_8x1(kind: str, micro_batch_size: int) -> None:
    minibatch = experience(kind, sampled(EIGHT, seed=1))
    whole = ppo_gradients(kind, minibatch, 8)
    assert max(float(g.abs().max()) for g in whole) > 0.01
    for wanted, got in zip(whole, ppo_gradients(kind, minibatch, micro_batch_size), strict=True):
        same(got, wanted)


@kinds
def test_parts_by_length_have_the_gradient_of_the_minibatch_as_it_was_shuffled(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    minibatch = experience(kind, sampled(EIGHT, seed=1))
    monkeypatch.setattr(padding, "PASS_TOKENS", 0)
    parts = minibatch.split(8)
    assert len(parts) > 2
    by_length = gradients_of_parts(kind, minibatch, parts)
    for wanted, got in zip(gradients_of_parts(kind, minibatch, [minibatch]), by_length, strict=True):
        same(got, wanted)


@kinds
def test_more_padding_changes_no_gradient(kind: str) -> None:
    plain = ppo_gradients(kind, experience(kind, sampled(EIGHT, seed=2)), 8)
    padded = ppo_gradients(kind, experience(kind, sampled(EIGHT, seed=2, round_to=16)), 8)
    for wanted, got in zip(plain, padded, strict=True):
        same(got, wanted)


@kinds
def test_before_the_first_update_the_ratio_is_1(kind: str) -> None:
    """Log-probabilities taken while writing, one token after another, are those of the training forward."""
    policy, _ = MODELS[kind]
    policy.eval()
    draw, prompts, samples = torch.Generator().manual_seed(0), [[3], [4, 5, 6, 7], [8, 9]], []
    for prompt in prompts:
        tokens, logprobs = list(prompt), []
        for _ in range(7):
            with torch.no_grad():
                table = (policy(input_ids=torch.tensor([tokens])).logits[0, -1] / 0.7).log_softmax(-1)
            tokens.append(int(torch.multinomial(table.exp(), 1, generator=draw)))
            logprobs.append(float(table[tokens[-1]]))
        samples.append(SimpleNamespace(tokens=tokens[len(prompt) :], logprobs=logprobs, ended=False))
    rollout = Rollout.from_samples(prompts, samples, pad_id=0, round_to=4)
    policy.train()
    ratio = (completion_logprobs(policy, rollout, temperature=0.7) - rollout.logprobs).exp()
    same(ratio, torch.ones_like(ratio), 1e-4)


@few
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), width=st.integers(1, 7)
)
def test_padding_and_cutting_gives_the_rows_back(rows: list[list[int]], width: int) -> None:
    tokens, attention_mask = pad_tokens(rows, pad_id=3, round_to=width)
    assert [row[real].tolist() for row, real in zip(tokens, attention_mask, strict=True)] == rows
    assert tokens.shape[1] % width == 0
