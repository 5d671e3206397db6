"""The command line: quick to answer, one line for what is wrong, flags over recipe over default."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.errors import InputError
from rlhf.store import Store
from stages.cli import stage_commands
from stages.cli.main import main, parse
from stages.cli.options import read_recipe, settings_from

COMMANDS = [
    "quickstart",
    "pretrain",
    "sft",
    "sample",
    "reward",
    "ppo",
    "eval",
    "chat",
    "import",
    "store",
    "labels",
    "doctor",
    "tokenizer",
]


def rlhf(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "stages.cli", *arguments], capture_output=True, text=True, **more
    )


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['rlhf', '--help']\nfrom stages.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'gradio', 'sqlalchemy', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (
        os.times().children_user - before.children_user < 2
    )  # of the processor, which other work does not lengthen


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: rlhf" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["store", "ls"], ["labels", "stats"], ["import", "x", "--name", "y"]])
def test_a_command_that_reads_no_recipe_takes_none(command, capsys):
    with pytest.raises(SystemExit):
        parse([*command, "--recipe", "laptop"])
    assert "--recipe" in capsys.readouterr().err


def settings(*arguments):
    return settings_from(parse(arguments))


def test_flags_win_over_recipe_and_recipe_over_default(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[ppo]\nkl_coef = 0.5\nlr = 1e-5\n")
    found = settings("ppo", "--recipe", str(recipe), "--lr", "2e-5", "--set", "clip=0.1")
    assert (found.kl_coef, found.lr, found.clip, found.batch_size) == (0.5, 2e-5, 0.1, 256)


def test_options_stand_before_or_after_the_command(tmp_path):
    for arguments in (["--store", "here", "store", "ls"], ["store", "ls", "--store", "here"]):
        assert parse(arguments).store == "here"


@pytest.mark.parametrize("name", ["quickstart", "laptop", "paper", "gpt2", "hub-model"])
def test_every_recipe_that_comes_with_rlhf_is_valid(name):
    assert read_recipe(name)


@pytest.mark.parametrize("extended", ["base", "base.toml", "../recipes/base", "recipes/base"])
def test_a_recipe_extends_one_beside_it_wherever_the_command_runs(extended, tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "base.toml").write_text("\ufeff[ppo]\nlr = 1e-5\nclip = 0.1\n")
    place = tmp_path if extended.startswith("recipes") else folder
    (place / "mine.toml").write_text(f'extends = "{extended}"\n[ppo]\nclip = 0.3\n')
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "laptop").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert read_recipe(str(place / "mine.toml")) == {"ppo": {"lr": 1e-5, "clip": 0.3}}
    assert "pretrain" in read_recipe("laptop"), "a folder of that name is no recipe"


@pytest.mark.parametrize("name", ["paper", "gpt2", "hub-model"])
def test_quickstart_refuses_recipes_for_models_of_ones_own(name, tmp_path, capsys):
    assert main(["quickstart", "--recipe", name, "--store", str(tmp_path)]) == 2
    assert "run its stages one by one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("[ppo]\nkl_coeff = 1", "no setting named kl_coeff"),
        ("[ppo]\nepisodes = 'many'", "episodes is a whole number"),
        ("[ppo]\nadaptive_kl = 3", "true or false"),
        ("[pro]\nlr = 1", "no stage named pro"),
        ("sft = 3", r"sft is no table; write \[sft\]"),
        ("[[sft]]\nlr = 1", r"sft is no table; write \[sft\]"),
        ("[ppo\n", "not TOML"),
        ("[eval]\nsplit = 'train'", "one of validation, test, held-out"),
        ("# caf\udce9", "not UTF-8"),
        ("a = " + "[" * 10_000, "nested too deep"),
        ("extends = ''", "names another recipe"),
        ("extends = 'a'", "circle"),
        ("extends = '../here/b'", r"circle: .*a\.toml → .*b\.toml → .*a\.toml"),
        ("extends = 'none-such'", r"a\.toml, extends: recipe none-such: no such file"),
        (f"extends = '{'x' * 300}'", "no such file"),
        ('extends = "\\u0000"', "no such file"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, table, reason):
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    (tmp_path / "b.toml").write_text("extends = 'a.toml'")
    (tmp_path / "a.toml").write_text(table, errors="surrogateescape")
    with pytest.raises(InputError, match=reason) as caught:
        read_recipe(str(tmp_path / "a.toml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ppo", "--policy", "sft"], "no such checkpoint"),
        (["ppo", "--set", "nothing"], "NAME=VALUE"),
        (["ppo", "--recipe", "none-such"], "no such file"),
        (["sft", "--data", "missing.jsonl"], "no such file"),
        (["store", "show", "ppo"], "no such checkpoint"),
        (["labels", "export", "out.jsonl"], "there are no labels"),
        (["eval", "--policy", "nobody"], "neither a folder"),
        (["quickstart", "--recipe", "x" * 300], "no such file"),
        (["doctor", "--recipe", "laptop"], "--base"),
        (["doctor", "--data", "."], "--base"),
        (["doctor", "--base", "base", "--data", "typo"], "typo: no such folder"),
        (["--store", "~nosuchuser/x", "store", "ls"], "~nosuchuser/x: "),
        (["--store", __file__, "store", "ls"], "a file, and no checkpoint store"),
        (["--store", __file__, "store", "verify"], "no store is there"),
    ],
)
def test_errors_are_one_line_and_end_with_status_two(arguments, reason, tmp_path, capsys):
    assert main(["--store", str(tmp_path / "store"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rlhf: error:") and reason in error


def test_a_stream_that_was_closed_or_has_no_sign_for_a_letter_stops_no_command(tmp_path):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for line, status in (
        ("sft --help-all", 0),
        ("store ls <&- >&-", 0),
        ("chat --policy nobody <&- 2>&-", 2),
    ):
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m stages.cli --store {tmp_path} {line}"],
            env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert done.returncode == status and "Traceback" not in done.stderr, (line, done)


@pytest.mark.parametrize(
    "command, goes_on", [("quickstart", True), ("eval", True), ("store", False), ("chat", False)]
)
def test_ctrl_c_promises_only_what_a_command_keeps(command, goes_on, tmp_path, capsys, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    options = parse(["--store", str(tmp_path), command, *(["ls"] if command == "store" else [])])
    options.run = stopped
    monkeypatch.setattr(sys.modules[main.__module__], "parse", lambda _: options)
    assert main([command]) == 130
    assert (
        capsys.readouterr().err.strip().endswith("goes on from the last save" if goes_on else "rlhf: stopped")
    )


def test_a_malformed_row_is_named_or_skipped_on_request(base_store, tmp_path, capsys):
    rows = tmp_path / "r.jsonl"
    good = '{"prompt": "q%s", "chosen": "good", "rejected": "bad"}\n'
    rows.write_text("".join(good.replace("%s", str(i)) for i in range(6)) + '{"prompt": "q"}\n')
    command = [
        "reward",
        "--init",
        "base",
        "--data",
        str(rows),
        "--name",
        "skips",
        "--store",
        str(base_store.root),
    ]
    assert main(command) == 2
    assert "r.jsonl:7" in capsys.readouterr().err
    assert main([*command, "--skip-bad-rows"]) == 0


def test_debug_shows_the_traceback(tmp_path):
    done = rlhf("--debug", "store", "show", "ppo", "--store", str(tmp_path))
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_vocabulary_is_trained_from_a_file(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n\n" * 50)
    folder = tmp_path / "vocabulary"
    assert (
        main(
            [
                "tokenizer",
                "train",
                "--data",
                str(tmp_path / "a.txt"),
                "--vocab-size",
                "280",
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    from rlhf.models.tokenizer import load_tokenizer

    assert load_tokenizer(folder).decode(load_tokenizer(folder).encode("the cat")) == "the cat"
    assert main(["tokenizer", "train", "--data", str(tmp_path / "a.txt"), "--out", str(folder)]) == 2


@pytest.mark.parametrize(
    "command",
    [
        "backup copy.db",
        "check",
        "stats",
        "export out.jsonl",
        "snapshot",
        "strengths",
        "user ls",
        "batch b",
        "token ls ann",
    ],
)
def test_what_only_reads_labels_makes_no_empty_file_of_them(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["labels", *command.split(), "--labels", "nowhere/typo.db"]) == 2
    assert "nowhere/typo.db: there are no labels; name their file with --labels" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_labels_travel_by_command(tmp_path, capsys):
    rows = tmp_path / "r.jsonl"
    rows.write_text('{"prompt": "q", "chosen": "good", "rejected": "bad"}\n')
    place = ["--labels", str(tmp_path / "labels.db")]
    for arguments in (
        ["labels", "import", str(rows), "--batch", "b"],
        ["labels", "stats"],
        ["labels", "snapshot"],
        ["labels", "check"],
        ["labels", "backup", str(tmp_path / "copy.db")],
        ["labels", "export", str(tmp_path / "out.jsonl"), "--format", "pairs"],
    ):
        assert main([*arguments, *place]) == 0, arguments
    assert '"chosen": [{"role": "assistant", "content": "good"}]' in (tmp_path / "out.jsonl").read_text()
    told = capsys.readouterr()
    assert "every label is whole" in told.out and "too;" not in told.err
    assert main(["labels", "import", str(rows), "--batch", "c", *place]) == 0
    assert "its tasks are those of batch b too" in capsys.readouterr().err


def test_a_team_and_its_batch_are_looked_after_by_command(tmp_path, capsys, monkeypatch):
    rows = tmp_path / "r.jsonl"
    rows.write_text('{"prompt": "q", "chosen": "good", "rejected": "bad"}\n' * 2 + "{broken\n")
    (tmp_path / "rules.md").write_text("# Be kind")
    place = ["--labels", str(tmp_path / "labels.db")]

    def labels(*arguments, status=0):
        monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
        assert main(["labels", *arguments, *place]) == status, arguments
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    assert "r.jsonl:3: not JSON" in labels("import", str(rows), "--batch", "b", status=2)
    assert "2 tasks, 0 rankings" in labels(
        "import", str(rows), "--batch", "b", "--skip-bad-rows", "--unranked", "--overlap", "2"
    )
    shown = labels(
        "batch", "b", "--guidelines", str(tmp_path / "rules.md"), "--ask", "ratings,flags", "--quota", "5"
    )
    assert "ratings=True" in shown and "comment=False" in shown and "quota        5" in shown
    assert "open         False" in labels("batch", "b", "--close")
    assert "choose from" in labels("batch", "b", "--ask", "beauty", status=2)
    assert "secret" in labels("batch", "b", "--webhook", "https://team.example/done")
    assert "http:// or https://" in labels("batch", "b", "--webhook", "file:///etc/passwd", status=2)
    rows.write_text('{"prompt": "known", "completions": ["a", "b"], "ranks": [0, 1]}\n')
    assert "1 gold questions added" in labels("gold", str(rows), "--batch", "b")
    assert labels("user", "add", "ann", "--role", "lead") == "ann (lead)\n"
    assert "already" in labels("user", "add", "ann", status=2)
    assert labels("user", "role", "ann", "admin") == "ann (admin)\n"
    labels("user", "passwd", "ann")
    token = labels("token", "add", "ann", "--label", "script").strip()
    assert token.startswith("rlhf_") and token not in labels("token", "ls", "ann")
    assert "revoked" in labels("token", "revoke", "ann", "1")
    labels("user", "disable", "ann")
    assert "ann (admin) disabled" in labels("user", "ls")
    assert "undefined" in labels("strengths")
    assert "write a day as" in labels("export", str(tmp_path / "x.csv"), "--since", "yesterday", status=2)
    assert "2 tasks" in labels("stats", "--since", "0001-01-01", "--until", "9999-12-31")


def test_the_store_is_listed_shown_verified_exported_and_cleared(base_store, tmp_path, capsys):
    place = ["--store", str(base_store.root)]
    assert main(["store", "ls", *place]) == 0
    assert main(["store", "show", "base", *place]) == 0
    assert main(["store", "verify", *place]) == 0
    assert main(["store", "export", "base", str(tmp_path / "out"), *place]) == 0
    shown = capsys.readouterr().out
    assert (
        "base/0001-tiny" in shown
        and "validation_loss" in shown
        and "every file is as it was written" in shown
    )
    assert (tmp_path / "out/config.json").exists()


def test_an_entry_whose_manifest_was_edited_is_shown_as_far_as_it_goes(tmp_path, capsys):
    store = Store(tmp_path)
    with store.new("base", "a", {}, {}, {}, 0) as writer:
        pass
    path = writer.entry.path / "manifest.json"
    manifest = {
        name: v for name, v in json.loads(path.read_text()).items() if name not in ("seed", "versions")
    }
    itself = {"base": {"ref": writer.entry.ref, "hash": writer.entry.hash}}
    path.write_text(json.dumps(manifest | {"parents": itself}))
    assert main(["store", "show", "base", "--store", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "└─ base: base/0001-a  (a circle" in shown and "seed" not in shown


def test_doctor_says_what_data_without_a_model_is_for(tmp_path, capsys):
    assert main(["doctor", "--store", str(tmp_path / "store"), "--data", str(tmp_path)]) == 2
    assert "name it with --base" in capsys.readouterr().err


def test_doctor_reports_this_machine(tmp_path, capsys):
    assert main(["doctor", "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    for name in (
        "CPU cores",
        "bf16 units",
        "memory",
        "GPU",
        "torch",
        "SQLite",
        "free disk",
        "checkpoint store",
        "label store",
    ):
        assert name in shown


@pytest.mark.parametrize("stage", ["sft", "sample", "best-of-n"])
def test_who_waits_for_torch_is_told_so_at_once(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(stage_commands.RUNNERS, stage, lambda options: None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert main(["--store", f"{tmp_path}", stage]) == 0
    assert capsys.readouterr().err.splitlines() == [f"{stage}: loading torch, transformers and trl"]
