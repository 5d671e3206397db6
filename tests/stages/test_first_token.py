"""Plain text is read behind the first token that a model was trained with, as prompts are: without it a model reads badly."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from rlhf.inputs import packed_tokens
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from stages.judging.answers import Model
from stages.judging.measure import TEXT_WINDOW, text_loss
from stages.ppo.pretraining import PTX_LENGTH, pretraining_rows
from tests.stages.conftest import foreign_config
from tests.tiny_ppo import TOKENIZER, config, policy

WORDS = ["The red kite is in the park. " * 30, "Tom has a blue boat. " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model whose tokenizer puts a first token in front of every text."""
    folder = tmp_path_factory.mktemp("begins")
    fast = TOKENIZER.fast()
    fast.bos_token, fast.chat_template = "<|pad|>", None
    first = ("<|pad|>", fast.bos_token_id)
    fast.backend_tokenizer.post_processor = TemplateProcessing(single="<|pad|> $A", special_tokens=[first])
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(foreign_config("llama", fast)).save_pretrained(folder)
    return folder


def test_it_is_what_the_tokenizer_puts_in_front_of_a_text(folder):
    assert load_tokenizer(folder).first_ids == (TOKENIZER.pad_id,) and TOKENIZER.first_ids == ()


@pytest.mark.parametrize("begins", [True, False])
def test_a_row_of_ppo_ptx_begins_with_it(begins, folder):
    model, tokenizer = (load_policy(folder), load_tokenizer(folder)) if begins else (policy(), TOKENIZER)
    made = pretraining_rows(config(ptx_coef=1.0), tokenizer, WORDS, model)
    rows, text = made.rows(0, 0, 20), packed_tokens(tokenizer, WORDS).tolist()
    length = min(PTX_LENGTH, model.config.max_position_embeddings)
    assert rows.shape == (20, length)
    assert not begins or (rows[:, 0] == TOKENIZER.pad_id).all()
    own = rows[:, int(begins) :].tolist()
    pieces = {tuple(text[i : i + len(own[0])]) for i in range(len(text))}
    assert all(tuple(row) in pieces for row in own)


def test_the_loss_on_plain_text_is_that_of_windows_that_begin_with_it(folder, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(WORDS))
    found = text_loss(Model(folder, "h"), str(tmp_path / "text.txt"), 3 * TEXT_WINDOW)
    tokenizer, model = load_tokenizer(folder), load_policy(folder)
    text = packed_tokens(tokenizer, ["\n\n".join(WORDS)])
    own = TEXT_WINDOW - 1
    rows = text[: min(len(text), 3 * TEXT_WINDOW) // own * own].view(-1, own)
    rows = torch.cat([torch.full((len(rows), 1), TOKENIZER.pad_id), rows], 1)
    with torch.no_grad():
        logits = model(input_ids=rows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    assert found["loss"] == pytest.approx(float(expected), abs=2e-3)
    assert found["tokens"] == rows[:, 1:].numel()
