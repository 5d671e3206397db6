"""What a stage was given may be moved or changed once it has begun, and no conversation is on both sides."""

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlhf.errors import InputError
from rlhf.splits import conversation_key, held_out
from stages import reward, sft
from stages.settings import RewardSettings, SFTSettings
from tests.rows import write

ROWS = [{"prompt": f"Say {n}", "completion": f"I say {n}."} for n in range(12)]
RANKED = [{"prompt": f"q{n}", "completions": ["Red.", "No."], "ranks": [0, 1]} for n in range(8)]


def fine_tuned(store, folder, **more):
    data = folder / "d.jsonl"
    if not data.exists():
        write(data, *ROWS)
    return sft.run(SFTSettings(data=str(data), epochs=1.0, name="changing", **more), store, lambda line: None)


@pytest.mark.parametrize("what", ["moved", "changed", "malformed"])
def test_a_reward_model_needs_no_file_of_the_sft_run(what, base_store, tmp_path):
    start = fine_tuned(base_store, tmp_path)
    data = tmp_path / "d.jsonl"
    if what == "moved":
        data.rename(tmp_path / "elsewhere.jsonl")
    else:
        data.write_text("{" if what == "malformed" else json.dumps(ROWS[0]) + "\n")
    settings = RewardSettings(
        init=start.ref, data=str(write(tmp_path / "r.jsonl", *RANKED)), prompts_per_batch=4, name=what
    )
    assert reward.run(settings, base_store, say=lambda line: None).stage == "reward"


def test_other_validation_data_make_another_entry(base_store, tmp_path):
    check = write(tmp_path / "v.jsonl", *ROWS[:2])
    first = fine_tuned(base_store, tmp_path, validation_data=str(check))
    assert fine_tuned(base_store, tmp_path, validation_data=str(check)).ref == first.ref
    write(check, *ROWS[2:5])
    assert fine_tuned(base_store, tmp_path, validation_data=str(check)).ref != first.ref


def test_files_and_models_that_were_moved_make_no_other_entry(base_store, tmp_path):
    first = fine_tuned(
        base_store, tmp_path, base=str(shutil.copytree(base_store.resolve("base").path, tmp_path / "m"))
    )
    (tmp_path / "there").mkdir()
    for name in ("d.jsonl", "m"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    assert fine_tuned(base_store, tmp_path / "there", base=str(tmp_path / "there" / "m")).ref == first.ref


def test_sft_says_what_its_file_was_read_as(base_store, tmp_path):
    lines = []
    sft.run(SFTSettings(data=str(write(tmp_path / "d.jsonl", *ROWS)), name="said"), base_store, lines.append)
    assert any("read 12 rows" in line for line in lines)


@example([1, 2], 0.28125)
@given(st.lists(st.integers(0, 9), min_size=2), st.floats(0, 1))
def test_no_conversation_is_on_both_sides_and_no_row_is_lost(numbers, share):
    rows = [f"Question {n}?" if i % 2 else f"  question {n}? " for i, n in enumerate(numbers)]
    try:
        learned, validated = held_out(rows, lambda row: row, share)
    except InputError:
        assert len(set(map(conversation_key, rows))) == 1
        return
    assert learned and validated and sorted(learned + validated) == sorted(rows)
    assert not set(map(conversation_key, learned)) & set(map(conversation_key, validated))


def test_many_answers_to_one_prompt_are_learned_from_all_the_same(base_store, tmp_path):
    rows = [{"prompt": "Say it.", "completion": f"It is {n}."} for n in range(12)]
    entry = sft.run(
        SFTSettings(data=str(write(tmp_path / "one.jsonl", *rows)), epochs=1.0, name="one"),
        base_store,
        lambda line: None,
    )
    assert 0 < entry.manifest["metrics"]["demonstrations"] < 12
