"""What this project does with every causal architecture of transformers, tried at a tiny size.

`python -m tests.slow.architectures NAME …` writes docs/architectures.md anew.
"""

import math
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlhf.errors import InputError
from rlhf.learning.passes import text_logprobs
from rlhf.models.checkpoints import load_policy, load_scalar
from stages.ppo.trainer import PPOTrainer
from tests.tiny_ppo import PROMPTS, TOKENIZER, config, count_e, quiet

DOC = Path(__file__).parents[2] / "docs" / "architectures.md"
MOST_PARAMETERS = 5_000_000
COLUMNS = ("SFT gradient", "value model", "sampling = training", "PPO step", "saved and loaded")
NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    "num_key_value_heads": 2, "encoder_attention_heads": 4, "num_experts_per_tok": 2, "head_dim": 8, "state_size": 8,
    "mamba_d_state": 8, "vocab_size": TOKENIZER.vocab_size, "pad_token_id": TOKENIZER.pad_id, "bos_token_id": 1,
    "eos_token_id": TOKENIZER.eos_id,
}  # fmt: skip


def tiny_config(name):
    """A small configuration, made of the default one by the names that sizes commonly have."""
    kind = CONFIG_MAPPING[name]
    default = kind()
    sizes = {key: value for key, value in SMALL.items() if getattr(default, key, None) is not None}
    sizes |= {key: SMALL[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")}
    if kind.model_type == "falcon":
        sizes.pop("head_dim")
    return kind(**sizes)


def tiny_model(name):
    """The model, or None where its sizes do not follow the names of SMALL."""
    try:
        made = tiny_config(name)
        with torch.device("meta"):
            size = sum(each.numel() for each in AutoModelForCausalLM.from_config(made).parameters())
        if size > MOST_PARAMETERS:
            return None
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(made).eval()
    except Exception:  # its configuration wants sizes that agree in ways of its own
        return None


def tried(name):
    """For each of COLUMNS yes, or the reason of the refusal, or the error; None where there is no tiny model."""
    model = tiny_model(name)
    if model is None:
        return None
    found = dict.fromkeys(COLUMNS, "")
    column = COLUMNS[0]
    try:
        rows = torch.tensor([TOKENIZER.encode(" ".join(PROMPTS))[:24]] * 2)
        (-text_logprobs(model, rows).mean()).backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
        model.zero_grad()
        found[column], column = "yes", COLUMNS[1]
        made = PPOTrainer(
            config(episodes=4, batch_size=4), processing_class=TOKENIZER, model=model, reward_model=count_e, train_dataset=PROMPTS,
            say=quiet,
        )  # fmt: skip
        found[column], column = "yes", COLUMNS[3]
        (row,) = made.train()
        gap = row["policy/sampling_gap"]
        found[COLUMNS[2]] = "yes" if gap < 1e-4 else f"{gap:.1e} nats apart"
        assert math.isfinite(row["policy/loss"])
        found[column], column = "yes", COLUMNS[4]
        with tempfile.TemporaryDirectory() as folder:
            made.save_model(folder)
            loaded, values = load_policy(folder), load_scalar(Path(folder) / "value")
            with torch.no_grad():
                assert torch.allclose(loaded(rows).logits, made.model.eval()(rows).logits, atol=1e-5)
            assert torch.equal(values.score.weight, made.value_model.score.weight)
        found[column] = "yes"
    except InputError as refused:
        found[column] = f"refused: {refused}"
    except Exception as error:
        found[column] = f"fails: {type(error).__name__}"
    return found


def table(results):
    """The page's table; results by name as `tried` gives them."""
    lines = ["| architecture | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in results.items():
        if row:
            lines.append(
                f"| {name} | "
                + " | ".join(row[column].replace("|", "/")[:160] or "–" for column in COLUMNS)
                + " |"
            )
    return "\n".join(lines)


def main(names):
    warnings.filterwarnings("ignore")
    logging.set_verbosity(logging.CRITICAL)
    results = {}
    for name in names:
        results[name] = tried(name)
        print(name, results[name], flush=True)
    return results


HEAD = """# Architectures

What becomes of causal language models of transformers, each tried at a tiny size with random weights on a CPU: the gradient of
SFT's loss; a value model over its trunk; log-probabilities of sampling within 1e-4 nats of those of training; an iteration of PPO;
policy and value model saved, loaded and equal. A dash: not reached. `python -m tests.slow.architectures NAME …` makes this page
of the names given, by default of every one of transformers; `tests/slow/test_architectures.py` tries its rows again.

"""


if __name__ == "__main__":
    found = main(sys.argv[1:] or NAMES)
    DOC.write_text(HEAD + table(found) + "\n")
