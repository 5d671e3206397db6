"""How a model can be sampled, told by what it says of a few tokens: what sampling gives has to be what training sees.

No field of a config tells it: families keep states outside of the cache, number places by what the cache holds, or look
ahead. The forward pass over a whole text is the truth, as it is in training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn

from rlhf.errors import InputError, first_line
from rlhf.models.adapters import WAY_OUT, is_adapted
from rlhf.models.trunk import accepted, unwrapped
from rlhf.sampling.model_decoder import CacheUse, ModelDecoder, TextDecoder

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}  # as a share of the logits' spread
COARSE = 0.1  # in half precision
# A deep model with large logits is off by more than that where nothing but the number of rows differs (Gemma 3 270M: 4e-5).
TIMES_ROUNDING, ROUNDING_AT_MOST = 5.0, 2e-4
USES = [CacheUse(padded, pieces) for padded in (True, False) for pieces in (True, False)]

# Of damaged weights, or of some that a format of fewer bits cannot hold.
NO_NUMBERS = (
    "the model's logits are no numbers (nan or inf): its weights are damaged, or overflow in this precision"
)

_found: WeakKeyDictionary[nn.Module, CacheUse | None] = WeakKeyDictionary()


def cache_use(model: Any) -> CacheUse | None:
    """What the model's cache may be used for; None where it has none that rows can share.

    Raises InputError, saying why, for a model that is no causal language model of plain tokens.
    """
    if model not in _found:
        _found[model] = _tried(model)
    return _found[model]


def forward_decoder(model: Any) -> ModelDecoder | TextDecoder:
    """The decoder by the model's own forward pass. Raises InputError as `cache_use`."""
    use = cache_use(model)
    return TextDecoder(model) if use is None else ModelDecoder(model, use)


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Raises InputError where a model cannot read plain tokens, or where what follows a token changes what it says of it."""
    with _as_in_sampling(model):
        try:
            is_causal = _agrees(TextDecoder(model), *_texts(model))
            is_damaged = not is_causal and any(
                not _whole(model, text).isfinite().all() for text in _texts(model)
            )
        except Exception as error:  # whatever another's code raises
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{_name(model)} cannot read a text of plain tokens: {reason}") from error
    if is_damaged:
        raise InputError(f"{_name(model)}: {NO_NUMBERS}")
    if not is_causal:
        raise InputError(
            f"{_name(model)} is no causal language model: what it says of a token depends on what stands behind it; "
            "some encoders become one by is_decoder=true in their config.json"
        )


def check_trainable(model: Any, in_training: bool = True) -> None:
    """Raises InputError where a short text has no gradient: in training mode, or in that of evaluation as PPO learns.

    Reformer, say, wants every text of training to be as long as its table of places.
    """
    leaves: list[Tensor] = []

    def watch(module: nn.Module, given: Any, states: Tensor) -> Tensor:
        leaves.append(states.detach().requires_grad_())
        return leaves[-1].clone()  # which may be changed in place

    with _as_in_sampling(model), torch.enable_grad():
        model.train(in_training)
        try:
            watched = model.get_input_embeddings().register_forward_hook(watch)
            try:
                logits = _whole(model, _texts(model)[0])
            finally:
                watched.remove()
            if logits.requires_grad:  # else nothing of it learns
                torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
        except Exception as error:  # whatever another's code raises
            reason = f"{type(error).__name__}: {first_line(error)}"
            way_out = f"; without adapters it may: {WAY_OUT}" if is_adapted(model) else ""
            raise InputError(
                f"{_name(model)} cannot learn from a text of plain tokens: {reason}{way_out}"
            ) from error


@torch.no_grad()
def _tried(model: Any) -> CacheUse | None:
    check_causal(model)
    with _as_in_sampling(model):
        for use in USES:
            try:
                if _agrees(ModelDecoder(model, use), *_texts(model)):
                    return use
            except Exception:  # whatever another's code raises over a cache it does not expect
                continue
    return None


@contextmanager
def _as_in_sampling(model: Any) -> Iterator[None]:
    """In evaluation mode and the model's own format; and nothing is drawn: a run that looks again goes on as one that does not."""
    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False), torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(was_training)


def _texts(model: Any) -> tuple[list[int], list[int]]:
    """Two texts of seven and of four tokens, none of them padding."""
    text = model.config.get_text_config(decoder=True)
    usable = [
        token for token in range(min(text.vocab_size, 40)) if token != getattr(text, "pad_token_id", None)
    ]
    tokens = [usable[3 * place % len(usable)] for place in range(1, 12)]
    return tokens[:7], tokens[7:]


def _agrees(decoder: ModelDecoder | TextDecoder, long: list[int], short: list[int]) -> bool:
    """Whether rows that come, go on, leave and join get the logits of their texts alone."""
    expected = [_whole(decoder.model, text) for text in (long, short)]
    tolerance = _tolerance(decoder.model, long, expected[0])
    return all(
        _distance(ours, expected[row][place]) <= tolerance
        for row, place, ours in _script(decoder, long, short)
    )


def _tolerance(model: Any, text: list[int], alone: Tensor) -> float:
    """How far logits may be apart: by the format, or, of a model that rounds more, by what it rounds.

    Rounding is the distance between the logits `alone` (S, V) of the text in one row and those of it in eight rows.
    """
    usual = TOLERANCE.get(model.dtype, COARSE)
    if usual >= TIMES_ROUNDING * ROUNDING_AT_MOST:
        return usual
    rounding = max(map(_distance, _whole(model, text, num_rows=8), alone))
    return max(usual, TIMES_ROUNDING * min(rounding, ROUNDING_AT_MOST))


def _script(
    decoder: ModelDecoder | TextDecoder, long: list[int], short: list[int]
) -> Iterator[tuple[int, int, Tensor]]:
    """What a decoder says: of which text, behind which of its places, logits (V,)."""
    first = decoder.read([0, 1], [long[:4], short[:2]])
    yield from ((0, 3, first[0]), (1, 1, first[1]))
    then = decoder.step([1, 0], torch.tensor([short[2], long[4]]))
    yield from ((1, 2, then[0]), (0, 4, then[1]))
    decoder.forget(0)
    yield 0, 3, decoder.read([2], [long[:4]])[0]
    yield 0, 5, decoder.read([2], [long[4:6]])[0]
    last = decoder.step([1, 2], torch.tensor([short[3], long[6]]))
    yield from ((1, 3, last[0]), (0, 6, last[1]))


def _whole(model: Any, text: list[int], num_rows: int = 1) -> Tensor:
    """Logits (S, V), float32, of one text without padding, which stands in so many equal rows."""
    tokens = torch.tensor([text] * num_rows, device=model.device)
    given = accepted(model, input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    return model(**given).logits[0].float()


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Between logits (V,), as a share of the spread of theirs; infinite where one of them is no number."""
    distance = (ours - theirs).norm() / (theirs - theirs.mean()).norm().clamp_min(1e-30)
    return float(distance.nan_to_num(float("inf")))


def _name(model: Any) -> str:
    return f"{type(unwrapped(model)).__name__} (transformers {transformers.__version__})"
