"""What a decoder adds to a block: attention over what an encoder has read (Vaswani et al. 2017, section 3.2.3).

Names and layouts are those of transformers' GPT-2 with `add_cross_attention`. Shapes: B batch, T tokens, S source
tokens, C channels, H heads, D = C / H.
"""

from torch import Tensor
from transformers import GPT2Config
from transformers.pytorch_utils import Conv1D

from rlhf.models.gpt import Attention, Block, LayerNorm, additive_mask


class CrossAttention(Attention):
    """Attention whose queries come from the target and whose keys and values come from the source."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__(config, layer)
        self.c_attn = Conv1D(2 * config.n_embd, config.n_embd)
        self.q_attn = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, T, C), source (B, S, C), visible (B, S) bool: real source tokens → (B, T, C)."""
        B, T, C = x.shape
        q = self.q_attn(x).view(B, T, self.num_heads, -1).transpose(1, 2)  # (B, H, T, D)
        k, v = self.c_attn(source).view(B, source.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.weights(q, k.transpose(-1, -2), additive_mask(visible[:, None, None], q.dtype), False)
        out = self.attn_dropout(weights) @ v
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).reshape(B, T, C)))


class CrossBlock(Block):
    """A decoder's block: attention to its own past, attention to the source, then the MLP."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__(config, layer)
        self.ln_cross_attn = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.crossattention = CrossAttention(config, layer)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None, is_causal: bool, source: Tensor, visible: Tensor
    ) -> Tensor:
        """x (B, T, C) → (B, T, C); mask, is_causal: see `Attention`; source, visible: see `CrossAttention`."""
        x = x + self.attn(self.ln_1(x), mask, is_causal)
        x = x + self.crossattention(self.ln_cross_attn(x), source, visible)
        return x + self.mlp(self.ln_2(x))
