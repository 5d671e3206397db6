"""A finished run made longer holds all that one does which was longer from the start, byte for byte."""

import pytest

from rlhf.durable import hashes_under
from stages.ppo.trainer import run
from stages.settings import PPOSettings
from tests.tiny_ppo import CONFIG, PROMPTS, quiet, tiny_store

WATCHED = {"eval_every": 1, "keep_every": 1, "samples_every": 1, "lr": 3e-2, "keep_state": True}
FILES = (
    "best/",
    "checkpoints/",
    "samples.jsonl",
    "history.json",
    "model.safetensors",
    "value/",
    "state/best/",
)


@pytest.fixture
def ended(tmp_path):
    """Runs a tiny PPO to its end: its files by hash, those of its training state aside, and its metrics."""
    store, prompts, measured = (
        tiny_store(tmp_path / "store"),
        tmp_path / "prompts.txt",
        tmp_path / "measured.txt",
    )
    prompts.write_text("\n".join(PROMPTS))
    measured.write_text("five\nsix green")
    files = {"prompts": str(prompts), "eval_prompts": str(measured)}

    def end(**settings):
        entry = run(
            PPOSettings(**(CONFIG | files if "extend" not in settings else {}) | settings), store, quiet
        )
        found = {n: h for n, h in hashes_under(entry.path).items() if n.startswith(FILES)}
        return found, {name: value for name, value in entry.manifest["metrics"].items() if name != "train_s"}

    return end


@pytest.mark.parametrize(("eval_every", "lr"), [(1, 1e-12), (2, 3e-2), (4, 3e-2)])
def test_a_longer_run_has_the_best_policy_the_kept_ones_and_the_samples_of_its_first_part(
    ended, eval_every, lr
):
    """eval_every 2 and 4: the shorter run measures at its end what the longer one does not."""
    watched = WATCHED | {"eval_every": eval_every, "lr": lr}
    ended(**watched, name="short", episodes=24)
    longer = ended(extend="ppo/short", episodes=40, name="longer", samples_every=1, keep_state=True)
    whole = ended(**watched, name="whole", episodes=40)
    assert {n for n in longer[0] | whole[0] if longer[0].get(n) != whole[0].get(n)} == set()
    assert longer == whole
    assert any(name.startswith("best/") for name in whole[0])
    assert {name.split("/")[1] for name in whole[0] if name.startswith("checkpoints/")} == {
        f"{episodes:06d}" for episodes in (8, 16, 24, 32)
    }


def test_what_is_made_longer_is_left_as_it_was(ended, tmp_path):
    before = ended(**WATCHED, name="short", episodes=16)
    ended(extend="ppo/short", episodes=24, name="longer", samples_every=1)
    assert ended(**WATCHED, name="short", episodes=16) == before


def test_a_best_policy_that_a_shorter_run_found_at_its_end_is_none_of_the_longer_one(ended, monkeypatch):
    """Objectives by hand: the end is best, and the second evaluation after it is better than what was before."""
    objectives = iter([])

    def measured(*given):
        return {"eval/objective": next(objectives), "eval/score": 0.0, "eval/kl": 0.0, "eval/length": 1.0}

    monkeypatch.setattr("stages.ppo.trainer.evaluate", measured)
    watched = WATCHED | {"eval_every": 2}
    found = {}
    for name, given, settings in (
        ("short", [1.0, 9.0], watched | {"episodes": 24}),  # after iterations 2 and 3
        (
            "longer",
            [0.5, 0.2],
            {"extend": "ppo/short", "episodes": 40, "samples_every": 1, "keep_state": True},
        ),
        ("whole", [1.0, 0.5, 0.2], watched | {"episodes": 40}),  # after 2, 4 and 5
    ):
        objectives = iter(given)
        found[name] = ended(**settings, name=name)
    assert found["longer"] == found["whole"] and found["short"][1]["best_objective"] == 9.0
