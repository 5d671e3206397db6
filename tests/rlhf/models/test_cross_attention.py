"""The decoder's block against transformers' GPT-2 with cross attention and against a plain written-out version."""

import torch
from transformers import GPT2Config, GPT2Model

from rlhf.models.cross_attention import CrossAttention, CrossBlock
from rlhf.models.gpt import Trunk

CONFIG = {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 12}
CONFIG |= {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


def random_(model, seed=0):
    """Every weight at random, norms and biases too."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def source(lengths):
    torch.manual_seed(5)
    hidden = torch.randn(len(lengths), max(lengths), 24)
    return hidden, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def test_cross_attention_is_what_the_paper_writes():
    layer = random_(CrossAttention(GPT2Config(**CONFIG), 0))
    x = torch.randn(2, 4, 24)
    memory, visible = source([3, 5])
    out = layer(x, memory, visible)
    for row, length in enumerate((3, 5)):
        seen = memory[row, :length]
        queries = x[row] @ layer.q_attn.weight + layer.q_attn.bias
        keys, values = (seen @ layer.c_attn.weight + layer.c_attn.bias).split(24, dim=1)
        heads = []
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            scores = queries[:, part] @ keys[:, part].T / 8**0.5
            heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ values[:, part])
        wanted = torch.cat(heads, 1) @ layer.c_proj.weight + layer.c_proj.bias
        torch.testing.assert_close(out[row], wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_decoder_of_these_blocks_is_transformers_decoder():
    theirs = random_(GPT2Model(GPT2Config(**CONFIG, add_cross_attention=True)), seed=3)
    blocks = torch.nn.ModuleList(CrossBlock(GPT2Config(**CONFIG), layer) for layer in range(2)).eval()
    blocks.load_state_dict(theirs.h.state_dict())
    tokens = torch.randint(0, 50, (2, 6))
    memory, visible = source([3, 5])
    x = theirs.wte(tokens) + theirs.wpe(torch.arange(6))
    for block in blocks:
        x = block(x, None, True, memory, visible)
    wanted = theirs(tokens, encoder_hidden_states=memory, encoder_attention_mask=visible).last_hidden_state
    torch.testing.assert_close(theirs.ln_f(x), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_encoder_sees_both_sides_and_no_padding():
    encoder = random_(Trunk(GPT2Config(**CONFIG), causal=False))
    tokens = torch.tensor([[4, 7, 9, 0, 0], [3, 3, 8, 1, 2]])
    real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    hidden = encoder(tokens, real).last_hidden_state
    alone = encoder(tokens[:1, :3]).last_hidden_state
    torch.testing.assert_close(hidden[0, :3], alone[0], atol=1e-5, rtol=1e-4)
    other = tokens.clone()
    other[1, -1] = 5
    assert not torch.allclose(encoder(other, real).last_hidden_state[1, 0], hidden[1, 0])
    causal = random_(Trunk(GPT2Config(**CONFIG)))
    assert torch.allclose(
        causal(other, real).last_hidden_state[1, 0], causal(tokens, real).last_hidden_state[1, 0]
    )
