"""Sampling for labels, demonstrations and judgments goes on where it was stopped, with the samples of an unbroken run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from annotate.labels import LabelStore
from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from stages.cli.main import main
from stages.judging import sampled
from stages.judging.sampled import SampleFile, kept_until_done, sample_answers
from tests.tiny_ppo import PROMPTS, TOKENIZER, tiny_store

ROOT = Path(__file__).parents[3]
ROWS = [TOKENIZER.encode(text) for text in PROMPTS * 3]


@pytest.fixture
def store(tmp_path):
    return tiny_store(tmp_path / "store")


@pytest.fixture
def policy(store):
    return load_policy(store.resolve("sft").path).eval()


class Stopped:
    """`generate` that counts what it draws and is interrupted when so many samples are drawn."""

    def __init__(self, monkeypatch):
        self.drawn, self.limit, self.real = 0, None, sampled.generate
        monkeypatch.setattr(sampled, "generate", self)

    def __call__(self, *args, on_sample, **more):
        def counted(row, sample):
            if self.drawn == self.limit:
                raise KeyboardInterrupt
            self.drawn += 1
            (on_sample or (lambda *_: None))(row, sample)

        return self.real(*args, on_sample=counted, **more)


@pytest.fixture
def stopped(monkeypatch):
    return Stopped(monkeypatch)


def test_what_is_there_is_not_drawn_again_and_a_line_cut_short_is(policy, tmp_path, stopped):
    file = SampleFile(tmp_path / "s.samples", "s")
    wanted = sample_answers(policy, TOKENIZER, ROWS, 1.0, 8, seed=4)
    stopped.drawn, stopped.limit = 0, 7
    with pytest.raises(KeyboardInterrupt):
        sample_answers(policy, TOKENIZER, ROWS, 1.0, 8, seed=4, file=file)
    file.path.write_bytes(file.path.read_bytes()[:-5])
    stopped.drawn, stopped.limit = 0, None
    assert sample_answers(policy, TOKENIZER, ROWS, 1.0, 8, seed=4, file=file) == wanted
    assert stopped.drawn == len(ROWS) - 6
    assert SampleFile(file.path, "s").read() == dict(enumerate(wanted))
    assert sample_answers(policy, TOKENIZER, ROWS, 1.0, 8, seed=4, file=file) == wanted
    assert stopped.drawn == len(ROWS) - 6


def test_a_bar_says_how_far_it_is_and_leaves_nothing_behind(policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sampled, "tqdm", lambda **more: TQDM(**more | {"delay": 0, "mininterval": 0}))
    sample_answers(
        policy, TOKENIZER, ROWS, 1.0, 8, seed=4, file=SampleFile(tmp_path / "s.samples", "answers")
    )
    shown = capsys.readouterr().err.split("\r")
    assert any(f"{len(ROWS)}/{len(ROWS)}" in part for part in shown) and not shown[-1].strip()


TQDM = sampled.tqdm
RANDOM = ["--set", "seed=3", "--max-new-tokens", "8"]


def prompts_file(folder):
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    return str(folder / "prompts.jsonl")


def commands(store, folder):
    """Three commands that sample, and what reads the result of each, by name."""
    begin = ["--store", str(store.root), "--labels", str(folder / "labels.db")]
    asked = ["--prompts", prompts_file(folder), *RANDOM]
    out = folder / "best.jsonl"

    def batch():
        with LabelStore(folder / "labels.db") as labels:
            labels.add_labeler("ann")
            tasks = [labels.lease("ann") for _ in PROMPTS]
            return {json.dumps(t.prompt): sorted(t.completions) for t in tasks if t}

    return {
        "sample": ([*begin, "sample", "--policy", "sft", "--against", "sft/tiny", "--k", "4", *asked], batch),
        "best-of-n": (
            [
                *begin,
                "best-of-n",
                "--policy",
                "sft",
                "--reward",
                "reward",
                "--n",
                "3",
                *asked,
                "--out",
                str(out),
            ],
            lambda: out.read_text(),
        ),
        "eval": (
            [*begin, "eval", "--policy", "base", "--against", "sft", "--reward", "reward", *asked, "--json"],
            lambda: None,
        ),
    }


@pytest.mark.parametrize("name, total", [("sample", 24), ("best-of-n", 18), ("eval", 12)])
def test_a_command_goes_on_where_it_was_interrupted(name, total, store, tmp_path, stopped, capsys):
    with store.new("base", "tiny", parents={}, settings={}, data={}, seed=0) as writer:
        shutil.copytree(store.resolve("sft").path, writer.path, dirs_exist_ok=True)
    command, result = commands(store, tmp_path)[name]
    assert main(command) == 0 and stopped.drawn == total
    wanted = result(), capsys.readouterr().out
    for left in ("labels.db", "best.jsonl"):
        (tmp_path / left).unlink(missing_ok=True)

    stopped.drawn, stopped.limit = 0, 0
    assert main(command) == 130 and not any((store.root / ".work").iterdir())
    capsys.readouterr()
    stopped.drawn, stopped.limit = 0, total - 4
    assert main(command) == 130
    assert "goes on from the last save" in capsys.readouterr().err
    stopped.drawn, stopped.limit = 0, None
    assert main(command) == 0 and stopped.drawn == 4
    assert (result(), capsys.readouterr().out) == wanted
    assert not any((store.root / ".work").iterdir())


def test_a_store_that_is_read_only_is_sampled_from(store, tmp_path):
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting takes root")
    command, _ = commands(store, tmp_path)["best-of-n"]
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    run = ["unshare", "-m", "sh", "-c", mount, str(store.root), sys.executable, "-m", "stages.cli", *command]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0 and (tmp_path / "best.jsonl").exists(), done.stderr
    assert f"best-of-n: {store.root} is read-only; an interrupted run will begin anew" in done.stderr


def test_where_there_was_no_store_none_is_left(store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    command = [
        "--store", str(elsewhere), "best-of-n", "--policy", str(store.resolve("sft").path), "--n", "2",
        "--reward", str(store.resolve("reward").path), "--prompts", prompts_file(tmp_path), *RANDOM,
    ]  # fmt: skip
    assert main(command) == 0 and not elsewhere.exists()


def test_an_error_before_anything_was_sampled_leaves_nothing_in_the_store(store):
    with pytest.raises(InputError), kept_until_done(store, "eval", "a" * 16, print):
        raise InputError("refused")
    assert not any((store.root / ".work").iterdir())
    with pytest.raises(KeyboardInterrupt), kept_until_done(store, "eval", "a" * 16, print) as folder:
        (folder / "1.json").touch()
        raise KeyboardInterrupt
    assert folder.exists()
    with kept_until_done(store, "eval", "a" * 16, print) as again:
        assert again == folder
    assert not folder.exists()
