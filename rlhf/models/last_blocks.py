"""Training only the last blocks of a model; several models then share the frozen lower part and one pass through it.

The lower part is all that runs before the first trained block: embeddings and blocks. A head tied to the embedding is
frozen with it. Shapes: B batch, S tokens, C channels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import InputError
from rlhf.models.trunk import blocks_of, trunk_of, trunk_states


@dataclass(frozen=True)
class Lower:
    """The frozen part that runs before block `num_blocks`: its parameters by their name in the trunk.

    num_outputs: of a block that gives a tuple with the hidden states in front; None where they are all it gives.
    """

    num_blocks: int
    parameters: Mapping[str, nn.Parameter]
    num_outputs: int | None = None

    def is_of(self, model: Any) -> bool:
        """Whether these very parameters are the model's, so that its states are the same as another's."""
        own = dict(trunk_of(model).named_parameters())
        return all(own.get(name) is parameter for name, parameter in self.parameters.items())

    def share_with(self, model: Any, like: Any) -> bool:
        """Give these parameters to a model whose own are equal, instead of those; whether they were.

        like: a model they are of. Another architecture's are never taken for equal.
        """
        own = dict(trunk_of(model).named_parameters())
        if type(trunk_of(model)) is not type(trunk_of(like)) or any(
            name not in own or not _equal(own[name], parameter) for name, parameter in self.parameters.items()
        ):
            return False
        for name, parameter in self.parameters.items():
            place, _, leaf = name.rpartition(".")
            setattr(trunk_of(model).get_submodule(place), leaf, parameter)
        model.tie_weights()
        self._leave_file(model)
        return True

    def _leave_file(self, model: Any) -> None:
        """Copy the rest of the weights: one that lies in a mapped file holds the whole of it, the lower part too."""
        shared = {id(parameter) for parameter in self.parameters.values()}
        for tensor in (*model.parameters(), *model.buffers()):
            if id(tensor) not in shared and tensor.device.type == "cpu":
                tensor.data = tensor.data.clone()

    @torch.no_grad()
    def states(self, model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, S, C) that enter the first trained block; tokens (B, S), padded on the right."""
        seen: list[Tensor] = []

        def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        hook = blocks_of(model)[self.num_blocks].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            trunk_states(model, tokens, attention_mask)
        except _Reached:
            return seen[0]
        finally:
            hook.remove()
        raise AssertionError("the trunk has run without its block")

    def hidden(
        self, model: Any, tokens: Tensor, attention_mask: Tensor, states: Tensor, wanted: Tensor | None = None
    ) -> Tensor:
        """`trunk_states` from those of the trunk's lower part, which does not run again."""
        given = states if self.num_outputs is None else (states, *[None] * (self.num_outputs - 1))
        with _instead_of_forward(blocks_of(model)[: self.num_blocks], lambda *args, **kwargs: given):
            return trunk_states(model, tokens, attention_mask, wanted)


class _Reached(Exception):
    """The block whose input is wanted: what follows need not run."""


def freeze_lower(model: Any, last_blocks: int) -> Lower:
    """Let only the last blocks, and what runs after them, learn.

    Raises InputError where the model has no more blocks than that, or cannot be cut between two blocks.
    """
    blocks = blocks_of(model)
    if not 0 < last_blocks < len(blocks):
        raise InputError(
            f"last_blocks = {last_blocks}: the model has {len(blocks)} blocks; choose 1 to {len(blocks) - 1}, "
            "or 0 to train all of it"
        )
    num_blocks, was_training = len(blocks) - last_blocks, model.training
    model.eval()  # dropout would draw random numbers, and none are to be drawn by looking
    early, num_outputs = _run_before(model, blocks[num_blocks])
    parameters = {n: p for n, p in trunk_of(model).named_parameters() if id(p) in early}
    lower = Lower(num_blocks, parameters, num_outputs)
    _check_cut(model, lower)
    model.train(was_training).requires_grad_(True)
    for parameter in lower.parameters.values():
        parameter.requires_grad_(False)
    return lower


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.to(one.device))


def _one_token(model: Any) -> tuple[Tensor, Tensor]:
    one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    return one, torch.ones_like(one)


@torch.no_grad()
def _run_before(model: Any, block: nn.Module) -> tuple[set[int], int | None]:
    """Identities of the parameters of every module that is called before the block, and how many outputs the block has.

    Found by watching one token; None for a block that gives its hidden states alone.

    No order of registration tells: some models list their final norm before the blocks.
    """
    early: set[int] = set()
    entered = False

    def watch(module: nn.Module, args: Any) -> None:
        nonlocal entered
        entered = entered or module is block
        if not entered:
            early.update(map(id, module.parameters(recurse=False)))

    outputs: list[Any] = []
    hooks: list[Any] = [module.register_forward_pre_hook(watch) for module in trunk_of(model).modules()]
    hooks.append(block.register_forward_hook(lambda module, args, output: outputs.append(output)))
    try:
        trunk_states(model, *_one_token(model))
    finally:
        for hook in hooks:
            hook.remove()
    return early, len(outputs[0]) if isinstance(outputs[0], tuple) else None


@torch.no_grad()
def _check_cut(model: Any, lower: Lower) -> None:
    """Refuse a model whose blocks hand on more than hidden states."""
    given = _one_token(model)
    try:
        again = lower.hidden(model, *given, lower.states(model, *given))
    except (TypeError, KeyError, AttributeError, IndexError):
        again = None
    if again is None or not torch.allclose(trunk_states(model, *given), again):
        raise InputError(
            f"last_blocks: {type(model).__name__} cannot be cut between two blocks; train all of it, or adapters"
        )


@contextmanager
def _instead_of_forward(blocks: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Call `function` for these blocks. They stay where they are: some models look at a block's place and kind."""
    try:
        for block in blocks:
            block.forward = function
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
