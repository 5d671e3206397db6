"""`rlhf align`: data divided by conversation, every step once, a report, and a run that was killed going on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GPT2Config

from annotate.labels import LabelStore
from rlhf.data import (
    Demonstration,
    as_messages,
    fingerprint,
    read_demonstrations,
    read_prompts,
    read_rankings,
)
from rlhf.errors import InputError
from rlhf.measuring.constraints import REWARD, Constraint
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import load_tokenizer, train_tokenizer
from rlhf.splits import assigned_split, conversation_key, interleaved, split_point
from rlhf.store import Store
from stages import align
from stages.align.data import demonstration_row, divide
from stages.settings import AlignDataSettings
from tests.rows import write
from tests.stages.conftest import TEXTS

SMALL = {"max_length": 96, "last_blocks": 1}
RECIPE = {
    "data": {
        "demonstrations": "written.jsonl, trees.jsonl",
        "rankings": "pairs.jsonl, kwise.jsonl",
        "test_rankings": "pairs_test.jsonl",
        "texts": "plain.txt",
        "tasks": "tasks.jsonl",
        "num_demonstrations": 40,
        "num_prompts": 30,
        "constrained_share": 0.4,
        "num_test_prompts": 6,
        "max_prompt_tokens": 60,
        "validation_share": 0.15,
        "test_share": 0.15,
    },
    "sft": {"epochs": 1.0, "batch_size": 8, **SMALL},
    "reward": {"prompts_per_batch": 8, **SMALL},
    "gold": {"prompts_per_batch": 8, **SMALL},
    "ppo": {
        "episodes": 16, "batch_size": 8, "minibatch_size": 8, "max_new_tokens": 8, "ptx_coef": 0.1, "ptx_examples": 1,
        "reward_weights": "1, 0.5", "save_every": 1, "keep_every": 1, "bf16": "off",
    },
    "judge": {
        "best_of": 2, "max_new_tokens": 8, "num_tasks": 5, "max_task_tokens": 8, "text_tokens": 600, "num_blind": 4,
    },
}  # fmt: skip


def quiet(line):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """People's data in four formats; two dialogues of one tree stand in demonstrations and in rankings."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    words = " ".join(TEXTS).split()

    def say(n):
        return " ".join(rng.choices(words, k=n))

    roots = [f"question {i} {say(3)}" for i in range(80)]
    write(
        folder / "written.jsonl",
        *[{"instruction": f"task {i} {say(4)}", "input": "", "output": say(8)} for i in range(80)],
    )
    write(
        folder / "trees.jsonl",
        *[
            {"messages": [{"role": "user", "text": root}, {"role": "assistant", "text": say(5)}]}
            for root in roots
        ],
    )
    branches = [
        [
            {"role": "user", "text": root},
            {"role": "assistant", "text": say(4)},
            {"role": "user", "text": say(3)},
        ]
        for root in roots
    ]
    write(
        folder / "kwise.jsonl",
        *[
            {"messages": branch, "replies": [{"text": say(k + 2), "rank": k} for k in range(3)]}
            for branch in branches
        ],
    )
    hh = [f"\n\nHuman: hello {i} {say(3)}\n\nAssistant:" for i in range(120)]
    write(
        folder / "pairs.jsonl",
        *[{"chosen": f"{text} {say(6)}", "rejected": f"{text} {say(4)}"} for text in hh],
    )
    write(
        folder / "pairs_test.jsonl",
        *[{"chosen": f"{text} {say(6)}", "rejected": f"{text} {say(4)}"} for text in hh[:15]],
    )
    write(
        folder / "tasks.jsonl",
        *[{"instruction": say(5), "instances": [{"input": f"in {i}", "output": say(3)}]} for i in range(6)],
    )
    (folder / "plain.txt").write_text("\n\n".join(say(30) for _ in range(60)))
    return folder  # fmt: skip


LLAMA = pytest.mark.parametrize("foreign_model", ["llama"], indirect=True)
ALL_MAKES = pytest.mark.parametrize(
    "foreign_model",
    ["llama", *(pytest.param(make, marks=pytest.mark.slow) for make in ("gpt2", "qwen", "gemma"))],
    indirect=True,
)


@LLAMA
def test_no_conversation_is_in_two_parts(folder, tmp_path, foreign_model):
    data = divide(AlignDataSettings(**RECIPE["data"]), folder, load_tokenizer(foreign_model), tmp_path, quiet)
    trained = {
        "sft": {conversation_key(row.prompt) for row in read_demonstrations(data.file("demonstrations"))},
        "proxy": {conversation_key(row.prompt) for row in read_rankings(data.file("rankings"))},
        "prompts": {conversation_key(prompt) for prompt in read_prompts(data.file("prompts"))},
    }
    gold = {conversation_key(row.prompt) for row in read_rankings(data.file("rankings_gold"))}
    held_out = {conversation_key(prompt) for prompt in read_prompts(data.file("prompts_test"))}
    for by_source in data.measured.values():
        held_out |= {
            conversation_key(row.prompt) for file in by_source.values() for row in read_rankings(file)
        }
    for part in trained.values():
        assert part and not part & gold and not part & held_out
    assert not gold & held_out
    written = read_demonstrations(data.file("demonstrations_test"))
    asked = {fingerprint(as_messages(prompt)) for prompt in read_prompts(data.file("prompts_test"))}
    assert written and {fingerprint(as_messages(row.prompt)) for row in written} <= asked
    # What the file of test rankings holds stands in the training file, too, and is still trained on by nobody.
    tests = {conversation_key(row.prompt) for row in read_rankings(folder / "pairs_test.jsonl")}
    assert len(read_rankings(data.measured["test"]["pairs_test"])) == 15
    assert tests <= held_out
    # Trees are kept together although their branches have other last messages.
    assert {row.split()[0] for row in trained["proxy"]} == {"question", "hello"}


def test_turns_that_are_not_to_be_learned_stay_so_in_the_divided_files(tmp_path):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    rows = [
        Demonstration(prompt=turns, completion="d", unlearned=(1,)),
        Demonstration(prompt=turns, completion="e"),
        Demonstration(prompt="f", completion="g"),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(demonstration_row(row)) + "\n" for row in rows))
    assert read_demonstrations(file) == rows


@LLAMA
def test_a_part_without_rows_is_refused_by_name(folder, tmp_path, foreign_model):
    settings = AlignDataSettings(**RECIPE["data"] | {"gold_share": 0.0})
    with pytest.raises(InputError, match="rankings_gold"):
        divide(settings, folder, load_tokenizer(foreign_model), tmp_path, quiet)


@LLAMA
def test_of_few_demonstrations_one_is_left_to_validate_on(folder, tmp_path, foreign_model):
    settings = AlignDataSettings(**RECIPE["data"] | {"num_demonstrations": 8})
    data = divide(settings, folder, load_tokenizer(foreign_model), tmp_path, quiet)
    assert len(read_demonstrations(data.file("demonstrations_validation"))) == 1


def test_places_do_not_change_with_case_space_or_later_turns():
    follow_up = [{"role": "user", "content": "A  question"}, {"role": "assistant", "content": "Yes."}]
    assert split_point("a question") == split_point([*follow_up, {"role": "user", "content": "more"}])
    assert split_point("a question") != split_point("another question")
    shares = {"test": 0.2, "gold": 0.3}
    parts = [assigned_split(str(i), shares) for i in range(2000)]
    assert abs(parts.count("test") / 2000 - 0.2) < 0.03 and abs(parts.count("gold") / 2000 - 0.3) < 0.04
    assert interleaved([[1, 2, 3, 4], [5]], 4) == [1, 5, 2, 3]


@ALL_MAKES
def test_a_whole_run_on_models_of_any_make_and_nothing_twice(folder, tmp_path, foreign_model):
    store, url = Store(tmp_path / "store"), str(tmp_path / "labels.db")
    run = {"base": str(foreign_model), "data": folder, "name": "tiny"}
    peer = str(_with_other_tokens(tmp_path / "peer"))
    recipe = RECIPE | {"judge": RECIPE["judge"] | {"peers": peer}}
    results = align.run(recipe, store, url, **run, say=quiet)
    assert [entry.stage for entry in store.entries()] == ["sft", "reward", "reward", "ppo"]
    _assert_constraints_were_rewards(store.resolve("ppo"))
    assert list(results["policies"]) == [peer, "base", "sft", "best of 2", "ppo at 8", "ppo"]
    beside_people = [row["policy"] for row in results["comparisons"] if row["against"] == "demonstrations"]
    assert beside_people == [peer, "base", "sft", "best of 2", "ppo"]
    assert len(results["comparisons"]) == 15 + 5
    assert peer in results["tasks"] and peer not in results["text_loss"] and "base" in results["text_loss"]
    assert [point["n"] for point in results["best_of"]] == [1, 2]
    assert {point["policy"] for point in results["curve"]} == {"sft", "ppo at 8", "ppo"}
    assert {len(results["examples"]), results["prompts"]} == {6}
    assert set(results["reward_models"]["gold"]["test"]["by_source"]) >= {"pairs_test"}
    kept = store.root / "reports/tiny-0/kept"
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    lines: list[str] = []
    again = align.run(recipe, store, url, **run, say=lines.append)
    assert sum("is there already" in line for line in lines) == 4
    assert before == {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert again["comparisons"] == results["comparisons"]
    with LabelStore(url) as labels:
        assert labels.progress("tiny-0-blind").tasks == 4
    moved = Store(shutil.move(store.root, tmp_path / "moved"))
    edited = recipe | {"judge": recipe["judge"] | {"num_blind": 3}}
    results = align.run(edited, moved, url, **run, say=quiet)
    assert len(moved.entries()) == 4, "what has the same content is not trained again"
    with LabelStore(url) as labels:
        assert labels.progress("tiny-0-blind").tasks == 4 and results["blind_batch"] != "tiny-0-blind"
        assert labels.progress(results["blind_batch"]).tasks == 3


def _with_other_tokens(folder):
    """A model as others have them, whose vocabulary is its own."""
    tokenizer = train_tokenizer(TEXTS, 280)
    GPT(GPT2Config(vocab_size=tokenizer.vocab_size, n_embd=16, n_layer=1, n_head=2, n_positions=256)).save_pretrained(folder)  # fmt: skip
    tokenizer.save(folder)
    return folder


def _assert_constraints_were_rewards(ppo):
    """Whether every iteration's score is the reward model's and half of the constraints kept, where a prompt has one."""
    prompts = Path(ppo.manifest["settings"]["prompts"])
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    constrained = [row for row in rows if "constraint" in row]
    assert 0.2 < len(constrained) / len(rows) < 0.7
    for row in constrained:
        assert Constraint(**row["constraint"]).text in row["prompt"][-1]["content"]
    assert ppo.manifest["settings"]["reward"].endswith(f",{REWARD}")
    for step in json.loads((ppo.path / "history.json").read_text()):
        assert 0 <= step["reward/constraint_kept"] <= 1
        assert any(name.startswith("reward/tiny") for name in step)


def toml(recipe):
    return "".join(
        f"[{step}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
        for step, table in recipe.items()
    )


@LLAMA
@pytest.mark.slow
def test_a_run_killed_in_every_step_ends_where_a_whole_run_ends(folder, tmp_path, foreign_model):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(toml(RECIPE))

    def run(store, kill_at=None):
        command = [
            sys.executable,
            "-m",
            "stages.cli",
            "align",
            "--json",
            "--recipe",
            str(recipe),
            "--store",
            str(tmp_path / store),
        ]
        command += ["--base", str(foreign_model), "--data", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if kill_at and line.startswith(kill_at):
                os.kill(process.pid, signal.SIGKILL)
                break
        out, rest = process.communicate()
        assert kill_at or process.returncode == 0, rest
        return json.loads(out) if out else None

    for step in (
        "── sft",
        "── reward",
        "── gold",
        "── ppo",
        "── blind",
        "judge: answers of ppo",
        "judge: reward on test rankings",
    ):
        assert run("killed", step) is None, f"{step} was never reached"
    killed, whole = run("killed"), run("whole")
    for name in ("comparisons", "curve", "reward_models", "tasks", "text_loss", "examples"):
        assert killed[name] == whole[name]


def test_a_misspelt_step_or_setting_stops_before_anything_is_written(folder, tmp_path):
    run = {"base": "sft", "data": folder, "name": "tiny", "say": quiet}
    unweighted = {"ppo": {**RECIPE["ppo"], "reward_weights": ""}}
    unchecked = {"data": {**RECIPE["data"], "constrained_share": 0.0}}
    absent = {"judge": RECIPE["judge"] | {"peers": "base/nowhere"}}
    for broken in (
        absent,
        {"gald": {}},
        {"ppo": {"reward": "x"}},
        {"judge": {"bestof": 2}},
        {"data": {}},
        unweighted,
        unchecked,
    ):
        with pytest.raises(InputError):
            align.run(RECIPE | broken, Store(tmp_path / "store"), None, **run)
    for wrong in ({"name": "größe 2"}, {"seed": 2**32 - 1000}, {"seed": -1}, {"data": folder / "typo"}):
        with pytest.raises(InputError, match=r"größe 2|--seed|typo"):
            align.run(RECIPE, Store(tmp_path / "store"), None, **run | wrong)
    assert not (tmp_path / "store").exists()
