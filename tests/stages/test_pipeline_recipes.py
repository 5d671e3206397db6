"""What a stage of a pipeline would refuse is refused before the first one trains."""

import pytest

from rlhf.errors import InputError, LabelError
from rlhf.store import Store
from stages import align, quickstart
from stages.align.steps import check as check_align
from stages.cli.options import read_recipe
from stages.quickstart.steps import check as check_quickstart

DATA = {"rankings": "a.jsonl", "demonstrations": "b.jsonl"}
PIPELINES = {"quickstart": (check_quickstart, {"pretrain": {}}), "align": (check_align, {"data": DATA})}
WRONG = [
    ({"ppo": {"advantages": "grpo"}}, r"recipe, \[ppo\]: advantages = grpo compares"),
    ({"ppo": {"keep_every": 500}}, r"\[ppo\]: keep_every = 500"),
    ({"ppo": {"kl_in": "loss"}}, r"\[ppo\]: kl_in = loss"),
    ({"ppo": {"pessimism": 1.0}}, r"\[ppo\]: pessimism = 1: .* set heads in \[reward\]"),
    ({"ppo": {"extend": "ppo"}}, r"\[ppo\]: extend = ppo"),
    ({"ppo": {"template_kwargs": "x"}}, r"\[ppo\]: template_kwargs"),
    ({"sft": {"template_kwargs": "x"}}, r"\[sft\]: template_kwargs"),
    ({"ppo": {"report_to": "no_such"}}, r"\[ppo\]: report_to = no_such"),
    ({"reward": {"report_to": "no_such"}}, r"\[reward\]: report_to = no_such"),
    ({"ppo": {"eval_every": 1, "eval_prompts": "./nope.jsonl"}}, r"\[ppo\]: \./nope\.jsonl"),
    ({"reward": {"last_blocks": 1, "lora_rank": 2}}, r"\[reward\]: last_blocks and lora_rank"),
    ({"sft": {"last_blocks": 1, "lora_rank": 2}}, r"\[sft\]: last_blocks and lora_rank"),
    ({"ppo": {"reward_weights": "1,x"}}, "reward_weights"),
    ({"ppo": {"reward_weights": "0,0"}}, "leaves no reward to learn from"),
]  # fmt: skip


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("table", "said"), WRONG)
def test_settings_that_a_stage_would_refuse_are_refused_at_once(pipeline, table, said):
    check, recipe = PIPELINES[pipeline]
    with pytest.raises(InputError, match=said) as refused:
        check(recipe | table, "q", 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        *(("quickstart", name) for name in ("quickstart", "laptop", "smoke")),
        *(
            ("align", name)
            for name in ("smollm2", "smollm2-files", "smollm2-smoke", "gemma", "gemma-files", "gemma-evening")
        ),
    ],
)
def test_the_recipes_that_come_with_the_project_pass(pipeline, name):
    check, _ = PIPELINES[pipeline]
    assert check(read_recipe(name), name, 0) == f"{name}-0"


def test_heads_that_the_recipe_trains_may_be_read_pessimistically():
    check_quickstart({"pretrain": {}, "reward": {"heads": 4}, "ppo": {"pessimism": 1.0}}, "q", 0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    shares = {"gold_share": 0.5, "validation_share": 0.25, "test_share": 0.25}
    with pytest.raises(InputError, match=r"gold_share, validation_share and test_share are 1 together"):
        check_align({"data": DATA | shares}, "q", 0)
    check_align({"data": DATA | shares | {"test_share": 0.2}}, "q", 0)


@pytest.mark.parametrize("url", ["mysql://x", "postgresql://u:p@127.0.0.1:1/x", "/proc/none/labels.db"])
def test_labels_that_cannot_be_opened_are_known_before_anything_trains(url, tmp_path, monkeypatch):
    said = []
    store = Store(tmp_path / "store")
    with pytest.raises(LabelError):
        quickstart.run({"pretrain": {}}, store, url, say=said.append)
    with pytest.raises(LabelError):
        align.run({"data": DATA}, store, url, base="./base", data=None, name="q", say=said.append)
    assert said == [] and not (tmp_path / "store").exists()
