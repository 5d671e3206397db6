"""trl's trainers must train our GPT without any change to either."""

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.tokenizer import train_tokenizer

TEXTS = [
    "The red kite is in the park. ",
    "Tom has a blue boat. ",
    "What sound does a dog make? The dog barks.",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def config(tokenizer, **more):
    torch.manual_seed(0)
    ids = {
        "bos_token_id": tokenizer.document_end_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    return GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=96, n_embd=32, n_layer=2, n_head=2, **ids, **more
    )


def arguments(folder):
    return {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 3e-3,
        "report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "dataloader_pin_memory": False, "gradient_checkpointing": False, "seed": 1,
    }  # fmt: skip


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("more", [{}, {"packing": True, "max_length": 64, "packing_strategy": "wrapped"}])
def test_sft_trainer_learns_on_our_gpt(tokenizer, tmp_path, more):
    model = GPT(config(tokenizer))
    rows = [{"text": text} for text in TEXTS]
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**arguments(tmp_path), **more), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer.fast(),
    )  # fmt: skip
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_sft_trainer_masks_the_prompt_with_our_chat_template(tokenizer, tmp_path):
    row = {
        "messages": [
            {"role": "user", "content": "Hello Tom"},
            {"role": "assistant", "content": "The dog barks."},
        ]
    }
    trainer = SFTTrainer(
        model=GPT(config(tokenizer)), args=SFTConfig(**arguments(tmp_path), assistant_only_loss=True),
        train_dataset=Dataset.from_list([row] * 8), processing_class=tokenizer.fast(),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    answer = tokenizer.encode_completion("The dog barks.")
    targets = batch["labels"][0][batch["labels"][0] != -100].tolist()
    assert targets[: len(answer)] == answer
    assert len(targets) <= len(answer) + 1  # a template may close with a line break
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_reward_trainer_learns_on_our_scalar_model(tokenizer, tmp_path):
    model = ScalarGPT(config(tokenizer, num_labels=1))
    rows = [{"chosen": "The red kite is in the park.", "rejected": "Tom has a blue boat."}] * 16
    trainer = RewardTrainer(
        model=model, args=RewardConfig(**arguments(tmp_path)), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer.fast(),
    )  # fmt: skip
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
