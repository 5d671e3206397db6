"""The passes of a model over a rollout, and over plain rows: log-probabilities, values, scores.

With `rlhf/learning/rollout.py` the only place that shifts and slices; shapes as there, V vocabulary.
"""

from typing import Any, Literal, overload
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.errors import InputError
from rlhf.learning.head import (
    BLOCK,
    entropies_of,
    logprobs_at,
    scaled,
    token_logprobs,
    token_logprobs_and_entropies,
)
from rlhf.learning.losses import entropy, lm_loss
from rlhf.learning.rollout import Rollout
from rlhf.models.checkpoints import reward_offset
from rlhf.models.padding import padded_length
from rlhf.models.trunk import accepted, has_scalar_head, trunk_of, trunk_states, unwrapped

HEAD_ROWS = 4096  # tokens through the LM head at once: bounds the float32 logits held without gradients
LENGTH_PARTS = 4  # of a batch of whole rows: less padding against more operations


@overload
def completion_logprobs(
    model: Any, rollout: Rollout, temperature: float = 1.0, with_entropy: Literal[False] = False
) -> Tensor: ...


@overload
def completion_logprobs(
    model: Any, rollout: Rollout, temperature: float = 1.0, *, with_entropy: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def completion_logprobs(
    model: Any, rollout: Rollout, temperature: float = 1.0, with_entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """log π(y_t | x, y_<t) of every completion token, (B, T) float32, zero outside mask, on the model's device.

    model: any causal language model. temperature: that of sampling; 0 means 1, as the sampler reports it.
    with_entropy: also the entropy of each next-token distribution, (B, T) in nats, with its gradient where gradients are on.
    """
    rollout = rollout.to(model.device)
    rows, places, targets = _real_tokens(rollout)
    if has_plain_head(model):
        bare = unwrapped(model)
        states, head = _hidden(bare, rollout, rows, places), bare.get_output_embeddings()  # (N, C)
    else:
        start = int(rollout.prompt_lengths.min()) - 1
        states, head = _full_logits(model, rollout, start)[rows, places - start], nn.Identity()  # (N, V)
    temperature = temperature or 1.0
    logprobs, entropies = [], []
    through_entropy = with_entropy and torch.is_grad_enabled()
    size = max(1, BLOCK // getattr(head, "out_features", states.shape[1])) if through_entropy else HEAD_ROWS
    for part, labels in zip(states.split(size), targets.split(size), strict=True):
        if through_entropy:
            found, spread = checkpoint(
                _logprobs_and_entropies, head, part, labels, temperature, use_reentrant=False
            )
            logprobs.append(found)
            entropies.append(spread)
            continue
        if type(head) is nn.Linear and head.bias is None:
            if with_entropy:
                found, spread = token_logprobs_and_entropies(part, head.weight, labels, temperature)
                entropies.append(spread)
            else:
                found = token_logprobs(part, head.weight, labels, temperature)
            logprobs.append(found)
            continue
        logits = head(part)
        if logits is part:  # a view of logits that the model gave, not ours to overwrite
            logits = logits.clone()
        if with_entropy:
            entropies.append(entropies_of(logits, temperature))
        logprobs.append(logprobs_at(logits, labels, temperature))
    per_token = _scattered(torch.cat(logprobs), rollout.mask)
    return (per_token, _scattered(torch.cat(entropies), rollout.mask)) if with_entropy else per_token


def _logprobs_and_entropies(
    head: nn.Module, states: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy of its distribution, (N,) both, through which gradients flow."""
    logits = scaled(head(states), temperature)
    return -F.cross_entropy(logits, labels, reduction="none"), entropy(logits)


def text_logprobs(model: Any, tokens: Tensor) -> Tensor:
    """log π(token | all before it) of rows of text without padding: tokens (B, S) int64 → (B, S − 1) float32."""
    before, targets = tokens[:, :-1], tokens[:, 1:]
    if (weight := head_weight(model)) is not None:
        states = trunk_states(unwrapped(model), before, torch.ones_like(before)).flatten(0, 1)
        logprobs = token_logprobs(states, weight, targets.flatten())
    else:
        logits = model(**accepted(model, input_ids=before, use_cache=False)).logits
        logprobs = -lm_loss(logits.flatten(0, 1), targets.flatten())
    return logprobs.view(targets.shape)


def completion_values(model: Any, rollout: Rollout) -> Tensor:
    """Value of the state before each completion token is written, (B, T) float32, zero outside mask.

    model: a trunk and a scalar head `score`, as in transformers' causal sequence classifiers. In the unit of the rewards:
    its `reward_offset` is in it.
    Raises InputError for any other: it has no value per token.
    """
    rollout, bare = rollout.to(model.device), unwrapped(model)
    if not has_scalar_head(bare):
        raise InputError(
            f"{type(bare).__name__} has no head `score` over its trunk, so it cannot be a value model; "
            "use the sequence classifier of a causal language model"
        )
    rows, places, _ = _real_tokens(rollout)
    values = bare.score(_hidden(bare, rollout, rows, places))[:, 0].float() + reward_offset(bare)
    return _scattered(values, rollout.mask)


def completion_scores(model: Any, rollout: Rollout) -> Tensor:
    """One score per completion, (B,) float32, read at a row's last token, the end token of one that is closed.

    See `last_scores`.
    """
    bare = unwrapped(model)
    if not has_scalar_head(bare):
        rollout = rollout.to(model.device)
        return last_scores(model, rollout.tokens, rollout.attention_mask)
    return bare.score(completion_states(model, rollout))[:, 0].float()


def completion_states(model: Any, rollout: Rollout) -> Tensor:
    """The trunk's hidden state at each row's last token, where a score is read, (B, C)."""
    rollout = rollout.to(model.device)
    return _hidden(unwrapped(model), rollout, *_last_tokens(rollout.attention_mask))


def last_scores(model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """The scalar head's number at the last real token, which the mask tells, not token ids: (B,) float32.

    tokens (B, S) int64 padded on the right, attention_mask (B, S) bool. A model without a head `score` over its
    trunk, such as an encoder, is asked for the logits of the whole row. Who wants the reward adds
    `rlhf.models.checkpoints.reward_offset`.
    """
    bare = unwrapped(model)
    if not has_scalar_head(bare):
        return model(input_ids=tokens, attention_mask=attention_mask.long()).logits[:, 0].float()
    return bare.score(last_states(bare, tokens, attention_mask))[:, 0].float()


def last_states(model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """The trunk's hidden state at the last real token, (B, C); arguments as of `last_scores`."""
    rows, places = _last_tokens(attention_mask)
    return trunk_states(unwrapped(model), tokens, attention_mask, rows * tokens.shape[1] + places)


def scores_by_length(model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """`last_scores` of rows in a few parts of about equal length, each without the columns that are padding in all of it.

    tokens, attention_mask: (R, S) int64, bool. Returns (R,) float32.
    """
    lengths = attention_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    scores = []
    for rows in order.chunk(LENGTH_PARTS):
        width = min(tokens.shape[1], padded_length(lengths[rows], 8))
        scores.append(last_scores(model, tokens[rows, :width], attention_mask[rows, :width]))
    return torch.cat(scores)[order.argsort()]


def _last_tokens(attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (B,) of a mask (B, S), and the place of the last real token in each."""
    return torch.arange(len(attention_mask), device=attention_mask.device), attention_mask.sum(1) - 1


def _real_tokens(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """For the N real completion tokens: their row, the place that predicts them, and their id; all (N,) int64."""
    rows, columns = rollout.mask.nonzero(as_tuple=True)
    places = rollout.prompt_lengths[rows] - 1 + columns
    return rows, places, rollout.tokens[rows, places + 1]


def _scattered(x: Tensor, mask: Tensor) -> Tensor:
    """x (N,), one per real token, back at its place in (B, T); zero elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


def _hidden(bare: Any, rollout: Rollout, rows: Tensor, places: Tensor) -> Tensor:
    """The trunk's states (N, C) at places of rows; what its lower part made of the tokens is used where it is known."""
    wanted = rows * rollout.tokens.shape[1] + places
    if rollout.states is not None and rollout.lower is not None and rollout.lower.is_of(bare):
        return rollout.lower.hidden(bare, rollout.tokens, rollout.attention_mask, rollout.states, wanted)
    return trunk_states(bare, rollout.tokens, rollout.attention_mask, wanted)


def _full_logits(model: Any, rollout: Rollout, start: int) -> Tensor:
    """The model's own logits from place `start` on, (B, S − start, V)."""
    keep = rollout.tokens.shape[1] - start
    supported = getattr(model, "_supports_logits_to_keep", lambda: False)()
    extra = {"logits_to_keep": keep} if supported else {}
    attention_mask = rollout.attention_mask.long()
    given = accepted(model, input_ids=rollout.tokens, attention_mask=attention_mask, use_cache=False)
    output = model(**given, **extra)
    return output.logits[:, -keep:]  # the last ones, because prompt tuning puts virtual tokens in front


def head_weight(model: Any) -> Tensor | None:
    """The LM head's weight (V, C) where the logits are its product with the trunk's states and nothing more, else None."""
    bare = unwrapped(model)
    head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    if type(head) is not nn.Linear or head.bias is not None or not has_plain_head(model):
        return None
    return head.weight


_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def has_plain_head(model: nn.Module) -> bool:
    """Whether the logits are the LM head on the trunk's hidden states and nothing more: no soft cap, no scaling.

    Found once per model by watching one token pass through it, because no field of a config tells all such cases.
    """
    if model not in _plain_heads:
        _plain_heads[model] = _watch_head(model)
    return _plain_heads[model]


@torch.no_grad()
def _watch_head(model: Any) -> bool:
    bare = unwrapped(model)
    trunk = trunk_of(bare)
    head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    if trunk is bare or head is None:
        return False
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Tensor] = {}

    def marked(x: Tensor) -> Tensor:
        # Noise in place of what the weights give: zeros of a new head or of padding would look the same scaled.
        return torch.randn(x.shape, generator=generator).to(x) * 8

    def leave_trunk(_: nn.Module, args: Any, output: Any) -> None:
        if hasattr(output, "last_hidden_state"):
            seen["hidden"] = output.last_hidden_state = marked(output.last_hidden_state)

    def leave_head(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["taken"], seen["given"] = args[0], marked(output)
        return seen["given"]

    hooks = [trunk.register_forward_hook(leave_trunk), head.register_forward_hook(leave_head)]
    # Dropout draws here, and a resumed run, which watches again, must draw what one that ran on does.
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
            given = accepted(model, input_ids=one, attention_mask=torch.ones_like(one), use_cache=False)
            logits = model(**given).logits
        finally:
            for hook in hooks:
                hook.remove()
    if seen.keys() != {"hidden", "taken", "given"}:
        return False
    return _same(seen["hidden"], seen["taken"]) and _same(seen["given"], logits)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.float(), b.float())
