"""What PPOTrainer is given in Python: refused by name with what to pass instead, or trained as it is meant."""

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    LlamaForCausalLM,
    TrainerCallback,
)

from rlhf.errors import InputError
from rlhf.learning.rewards import RewardModel, completion_texts
from rlhf.learning.rollout import Rollout
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import any_tokenizer
from rlhf.sampling.generate import Sample
from tests.tiny_ppo import (
    PROMPTS,
    TOKENIZER,
    config,
    count_e,
    llama,
    llama_config,
    policy,
    scalar,
    trainer,
    weights,
)

REWARD = scalar()
SPLITS = datasets.DatasetDict(train=datasets.Dataset.from_list([{"prompt": "one"}]))


def labels(number):
    sizes = {
        "vocab_size": TOKENIZER.vocab_size,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
    }
    return BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=2, num_labels=number))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_dataset": SPLITS}, r"dict of train; pass one of its splits, as in train_dataset=data\['train'\]"),
        ({"train_dataset": {"train": PROMPTS, "test": PROMPTS}}, "dict of train, test"),
        ({"train_dataset": "prompts.jsonl"}, "text or path; pass rows"),
        ({"train_dataset": None}, "NoneType"),
        ({"train_dataset": 3}, "int"),
        ({"train_dataset": []}, "train_dataset has no rows"),
        ({"train_dataset": datasets.Dataset.from_dict({"prompt": []})}, "train_dataset has no rows"),
        ({"eval_dataset": [], "args": config(eval_every=1)}, "eval_dataset has no rows"),
        ({"pretrain_dataset": "some text", "args": config(ptx_coef=1.0)}, "pretrain_dataset is a text"),
        ({"pretrain_dataset": {"train": []}, "args": config(ptx_coef=1.0)}, "pretrain_dataset is a dict"),
        ({"pretrain_dataset": [{"content": "x"}], "args": config(ptx_coef=1.0)}, "column `text`"),
        ({"reward_model": labels(2)}, "BertForSequenceClassification of 2 labels.*num_labels=1"),
        ({"reward_model": [scalar(), labels(3)]}, "of 3 labels"),
        ({"reward_model": policy()}, "language model without scores"),
        ({"reward_model": "reward"}, "reward_model is a text; pass a function"),
        ({"reward_model": [scalar(), torch.nn.Linear(2, 2)]}, "Linear: it takes no prompts and completions"),
        ({"reward_model": lambda text: [0.0]}, "takes no prompts and completions"),
        ({"reward_model": lambda completions, answer: [0.0]}, "no prompt has a column answer; there are: none"),
        ({"value_model": labels(2)}, "value_model is a .* of 2 labels"),
        ({"value_model": "x"}, "value_model is a text"),
        ({"model": "gpt2"}, "model is a text; pass a model"),
        ({"model": scalar()}, "predicts no tokens"),
        ({"ref_model": scalar()}, "ref_model .* predicts no tokens"),
        ({"model": torch.nn.Linear(2, 2)}, "model is a Linear, no model of transformers"),
        ({"value_model": torch.nn.Linear(2, 2)}, "value_model is a Linear, no model of transformers"),
        ({"value_model": REWARD, "reward_model": [count_e, REWARD]}, "value_model is a reward model itself"),
        ({"reward_model": []}, "reward_model is an empty list"),
        ({"model": policy().requires_grad_(False)}, "model: none of its weights learns"),
        ({"value_model": scalar().requires_grad_(False)}, "value_model: none of its weights learns"),
        ({"model": policy(vocab_size=10)}, "model: its tokenizer has .* embedding 10; resize it"),
        ({"reward_model": [count_e, scalar(vocab_size=10)]}, "reward_model ScalarGPT: its tokenizer has .* embedding 10"),
        ({"value_model": scalar(vocab_size=10)}, "value_model: its tokenizer has .* embedding 10"),
        ({"ref_model": policy(vocab_size=10)}, "ref_model: its tokenizer has .* embedding 10"),
        ({"reward_model": scalar(n_positions=8)}, "the context of 8 of reward_model ScalarGPT"),
        ({"value_model": scalar(n_positions=8)}, "the context of 8 of value_model"),
        ({"ref_model": policy(n_positions=8)}, "the context of 8 of ref_model"),
        ({"output_dir": __file__}, "output_dir: .*test_given.py: File exists; name another folder"),
        ({"output_dir": f"{__file__}/new"}, "output_dir: .*Not a directory"),
        ({"logging_dir": __file__}, "logging_dir: .*File exists"),
        ({"callbacks": TrainerCallback()}, "callbacks is a TrainerCallback; pass a list"),
        ({"callbacks": [TrainerCallback]}, "callbacks: the class TrainerCallback"),
        ({"callbacks": [print]}, "callbacks: a builtin_function_or_method"),
        ({"callbacks": [EarlyStoppingCallback()]}, "EarlyStoppingCallback waits for evaluations"),
        ({"processing_class": None}, "processing_class is a NoneType"),
        ({"processing_class": "gpt2"}, "processing_class is a text"),
        ({"args": {"episodes": 3}}, "args is a dict; pass a PPOConfig"),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(part),
)  # fmt: skip
def test_what_would_be_trained_on_in_silence_is_refused_by_name(given, said):
    with pytest.raises(InputError, match=said):
        trainer(**given)


def test_a_reward_model_of_a_shorter_context_reads_what_has_room_in_it():
    made = trainer(config(skip_long=True), reward_model=scalar(n_positions=20))
    with_room = [prompt for prompt in PROMPTS if len(TOKENIZER.encode_prompt(prompt)) + 8 < 16]
    assert [row.prompt for row in made.prompts] == with_room != PROMPTS
    assert len(made.train()) == 2  # of its 20 places 16 are read, padding being of whole steps of 8


def test_a_model_saved_where_a_file_stands_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: File exists; name another folder"):
        trainer().save_model(tmp_path / "file")


def test_prompts_without_room_are_left_out_and_counted_in_python_too(tmp_path):
    said, long = [], "one " * 60
    with pytest.raises(InputError, match="leave such prompts out with skip_long"):
        trainer(train_dataset=[long, *PROMPTS])
    made = trainer(
        config(skip_long=True, eval_every=1), train_dataset=[long, *PROMPTS], eval_dataset=["one", "two", long], output_dir=tmp_path,
        say=said.append,
    )  # fmt: skip
    assert [len(made.prompts), len(made.eval_prompts)] == [len(PROMPTS), 2]
    assert [line.split(", of more")[0] for line in said] == [
        "ppo: left out 1 of 7 prompts",
        "ppo: to evaluate on: left out 1 of 3 prompts",
    ]


def test_a_policy_in_bfloat16_learns_as_one_in_float32_does():
    said, rounded = [], policy().to(torch.bfloat16).float()
    args = config(episodes=32, lr=1e-4, value_lr=1e-4, kl_coef=0.0)
    runs = []
    for model in (rounded, policy().to(torch.bfloat16)):
        before = {name: value.float() for name, value in weights(model).items()}
        made = trainer(args, model=model, reward_model=count_e, say=said.append)
        made.train()
        moved = sum((value.float() - before[name]).norm() for name, value in made.model.state_dict().items())
        runs.append(float(moved))
    assert runs[1] == pytest.approx(runs[0], rel=1e-3) and runs[0] > 0
    assert sum("bfloat16" in line for line in said) >= 1


def test_adapters_over_a_bfloat16_base_learn_in_float32_and_leave_the_base():
    made = trainer(model=llama().to(torch.bfloat16), peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    learning = {p.dtype for p in made.model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in made.model.parameters() if not p.requires_grad}
    assert learning == {torch.float32} and torch.bfloat16 in frozen
    made.train()


def test_adapters_on_a_tied_head_are_refused_and_saved_right_on_others(tmp_path):
    for where in ({"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["embed_tokens"]}):
        with pytest.raises(InputError, match="one weight"):
            trainer(
                model=LlamaForCausalLM(llama_config(tie_word_embeddings=True)),
                peft_config=LoraConfig(r=2, **where),
            )
    untied = trainer(model=llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    untied.train()
    untied.save_model(tmp_path / "out")
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        assert torch.allclose(load_policy(tmp_path / "out")(ids).logits, untied.model(ids).logits, atol=1e-5)


def test_every_end_token_of_the_models_generation_settings_stops_in_python_too():
    model = llama()
    model.generation_config.eos_token_id = [TOKENIZER.eos_id, 7, 9]
    made = trainer(model=model, processing_class=TOKENIZER.fast(), reward_model=count_e)
    assert {7, 9, TOKENIZER.eos_id} <= made.tokenizer.stop_ids
    assert 7 not in any_tokenizer(TOKENIZER.fast()).stop_ids


def test_an_answer_that_another_stop_token_ended_is_scored_at_the_end_the_reward_model_knows():
    model, said = scalar(), [5, 6]
    ends = [[*said, stop] for stop in (TOKENIZER.eos_id, TOKENIZER.document_end_id, 9)]
    samples = [Sample(tokens, [0.0] * 3, True) for tokens in ends] + [Sample(said, [0.0] * 2, False)]
    rollout = Rollout.from_samples([[3, 4]] * 4, samples, TOKENIZER.pad_id, 8, end_id=TOKENIZER.eos_id)
    scores = RewardModel(model, bf16="off", end_id=TOKENIZER.eos_id)(rollout)
    assert torch.allclose(scores, scores[0].expand(4), atol=1e-6)
    assert rollout.completions[2] == [*said, 9]  # what was sampled stays as it was


def test_a_stop_token_that_is_an_ordinary_one_is_no_part_of_the_text():
    model = llama()
    stop = TOKENIZER.encode("red")[-1]
    model.generation_config.eos_token_id = [stop]
    tokenizer = any_tokenizer(TOKENIZER.fast(), model)
    said = [*TOKENIZER.encode("Tom"), stop]
    rollout = Rollout.from_samples([[3]], [Sample(said, [0.0] * len(said), True)], TOKENIZER.pad_id)
    assert completion_texts(rollout, tokenizer) == ["Tom"]
