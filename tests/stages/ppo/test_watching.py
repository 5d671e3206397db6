"""Who watches a run changes no number of it: evaluations with the best policy kept, transformers' callbacks, report_to."""

import json

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.store import Store
from stages import ppo
from stages.settings import PPOSettings
from tests.tiny_ppo import config, count_e, quiet, same, tiny_store, trainer, weights

HELD_OUT = ["The dog", "Say one"]
MEASURED = ("eval/score", "eval/objective", "eval/kl", "eval/length")


def without(names, history):
    return [{name: value for name, value in row.items() if name not in names} for row in history]


def test_evaluations_change_no_number_and_keep_the_best_policy(tmp_path):
    settings = {"episodes": 40, "lr": 3e-2, "keep_every": 1}
    plain = trainer(config(**settings), reward_model=count_e, output_dir=tmp_path / "plain")
    made = trainer(
        config(**settings, eval_every=1),
        reward_model=count_e,
        eval_dataset=HELD_OUT,
        output_dir=tmp_path / "work",
    )
    history = made.train()
    assert without(MEASURED, history) == plain.train() and same(weights(made.model), weights(plain.model))
    assert all(set(MEASURED) <= row.keys() for row in history)
    found = [row["eval/objective"] for row in history]
    assert found[-1] == pytest.approx(
        made.evaluate()["eval/objective"]
    )  # of the policy after the row's update
    best = found.index(max(found))
    kept = load_policy(tmp_path / "work/best")
    episodes = 8 * (best + 1)
    there = load_policy(tmp_path / f"work/checkpoints/{episodes:06d}") if best < 4 else made.model
    assert same(weights(kept), weights(there))


def test_what_is_best_does_not_depend_on_the_unit_of_scores_that_are_normalised(tmp_path):
    found = {}
    for unit in (1.0, 64.0):
        made = trainer(
            config(episodes=40, lr=3e-2, normalize_scores=True, eval_every=1, kl_coef=0.3),
            reward_model=lambda prompts, texts: [unit * text.count("e") for text in texts],  # noqa: B023
            eval_dataset=HELD_OUT,
            output_dir=tmp_path / f"{unit}",
        )
        found[unit] = made.train()
        assert made.learner.moments.std != 1 and found[unit][-1]["eval/kl"] > 0.1
    for name in ("eval/objective", "reward/objective"):
        one, other = ([row[name] for row in history] for history in found.values())
        assert other == pytest.approx([64 * x for x in one], rel=1e-4, abs=1e-3)


def test_a_resumed_run_remembers_its_best(tmp_path):
    settings = config(episodes=24, eval_every=1, save_every=1)
    made = trainer(settings, eval_dataset=HELD_OUT, output_dir=tmp_path)
    made.train()
    again = trainer(settings, eval_dataset=HELD_OUT, output_dir=tmp_path)
    assert again.learner.best == made.learner.best == max(row["eval/objective"] for row in made.log.history)


def test_evaluations_and_their_prompts_belong_together():
    for settings, more in (({"eval_every": 1}, {}), ({}, {"eval_dataset": HELD_OUT})):
        with pytest.raises(InputError, match="eval_every and eval_dataset"):
            trainer(config(**settings), **more)
    with pytest.raises(InputError, match="eval_every: give output_dir"):
        trainer(config(eval_every=1), eval_dataset=HELD_OUT)


class Told(TrainerCallback):
    def __init__(self):
        self.events, self.logs, self.measured = [], [], []

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        self.events.append(("begin", state.global_step, state.max_steps, type(model).__name__))

    def on_step_begin(self, args, state, control, **kwargs):
        self.events.append(("step", state.global_step))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(logs)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.measured.append(metrics)

    def on_save(self, args, state, control, **kwargs):
        self.events.append(("save", state.global_step))

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2
        control.should_save = state.global_step == 1
        return control

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append(("end", args.to_dict()["kl_coef"]))


def test_transformers_callbacks_are_told_and_obeyed(tmp_path):
    told = Told()
    made = trainer(
        config(episodes=32, eval_every=2, save_every=0),
        callbacks=[told],
        eval_dataset=HELD_OUT,
        output_dir=tmp_path,
    )
    history = made.train()
    assert told.events == [
        ("begin", 0, 4, "GPT"), ("step", 0), ("save", 1), ("step", 1), ("end", made.args.kl_coef)
    ]  # fmt: skip
    measured = {name: history[1][name] for name in MEASURED}
    named_as_there = {name.replace("/", "_"): value for name, value in measured.items()}
    assert len(history) == 2 and told.measured == [measured | named_as_there]
    assert [log["reward/score"] for log in told.logs] == [row["reward/score"] for row in history]


class StopsAfterTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_a_run_that_a_callback_stopped_goes_on_where_it_was_without_the_callback(tmp_path):
    args = {"args": config(episodes=32, save_every=10), "output_dir": tmp_path}
    stopped = trainer(**args, callbacks=[StopsAfterTwo()])
    assert len(stopped.train()) == 2
    again = trainer(**args)
    assert again.learner.iteration == 2
    whole = trainer(args["args"])
    assert again.train() == whole.train() and same(weights(again.model), weights(whole.model))


def test_early_stopping_of_transformers_ends_a_run_whose_objective_no_longer_rises(tmp_path):
    settings = config(episodes=64, eval_every=1, lr=1e-30)  # so that evaluations are all alike
    more = {"callbacks": [EarlyStoppingCallback(2)], "eval_dataset": HELD_OUT, "output_dir": tmp_path}
    assert len(trainer(settings, **more).train()) == 3
    again = trainer(settings, **more | {"callbacks": [EarlyStoppingCallback(2)]})
    assert len(again.train()) == 3 + 2  # the best of before is remembered


class Asks(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = True


def test_an_evaluation_without_prompts_is_one_line():
    for evaluate in (trainer().evaluate, trainer(callbacks=[Asks()]).train):
        with pytest.raises(InputError, match="no prompts to evaluate on; give eval_dataset and eval_every"):
            evaluate()


@pytest.mark.parametrize(
    "tracker", ["nowhere", "comet_ml"]
)  # unknown to transformers, and not installed here
def test_report_to_names_what_transformers_knows(tracker):
    with pytest.raises(InputError, match=f"report_to = {tracker}"):
        trainer(config(report_to=tracker))


def test_a_run_by_name_holds_prompts_out_and_keeps_the_best_in_its_entry(tmp_path):
    tiny_store(tmp_path / "store")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"Say {number} {'one' * number}"}) + "\n" for number in range(20))
    )
    settings = PPOSettings(
        policy="sft", reward="reward", prompts=str(rows), name="watched", episodes=8, batch_size=4, minibatch_size=4,
        max_new_tokens=8, bf16="off", eval_every=1,
    )  # fmt: skip
    entry = ppo.run(settings, Store(tmp_path / "store"), say=quiet)
    history = json.loads((entry.path / "history.json").read_text())
    assert load_policy(entry.path / "best").config.n_layer == 2
    assert entry.manifest["metrics"]["best_objective"] == round(
        max(row["eval/objective"] for row in history), 4
    )
