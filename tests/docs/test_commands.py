"""Every block of commands in README.md and docs/ runs in the order it stands, in one folder, on tiny settings.

What cannot run here is in NOT_RUN with its reason; a command that is neither run nor named there fails.
"""

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rlhf.models.checkpoints import load_policy
from stages.cli.main import parse
from tests import forked
from tests.chat.tiny import tiny_store
from tests.command_line import rlhf
from tests.rows import write

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("rlhf", "make", "python", "lm_eval", "llama-server", "vllm", "accelerate", "curl", ".", "nginx")
PROGRAMS += ("torchrun", "srun", "pg_dump", "sh")
ASSIGNED = re.compile(r"^(?:[A-Z_]+=\S+ )+")  # VARIABLE=value before a command
NOT_RUN = {
    "make test": "this is it",
    "make talk": "an hour; tests/examples runs each of its experiments on tiny settings",
    "python -m examples": "minutes each; tests/examples runs them on tiny settings",
    "make gemma-night": "a night; tests/slow runs the smoke recipe of the same steps",
    "make smollm2-evening": "an evening; tests/slow/test_smollm2.py runs its smoke recipe",
    ". .venv/bin/activate": "the tests run in that environment",
    "lm_eval": "a peer that is not installed here",
    "python convert_hf_to_gguf.py": "llama.cpp's converter is not installed here",
    "llama-server": "llama.cpp is not installed here",
    "vllm": "vLLM is not installed here",
    "rlhf sft --base HuggingFaceTB": "needs the hub",
    "rlhf import SOURCE": "SOURCE is a model of the reader's; tests/stages/cli/test_import.py imports all three kinds",
    "rlhf push": "needs the hub; tests/stages/test_push.py pushes to a server of its protocol",
    "rlhf eval --policy sft,ppo": "needs a pipeline's entries; tests/stages/judging runs it",
    "rlhf report": "shows what the command before left; tests/stages/judging runs it",
    "rlhf align": "two minutes on data of the reader's; tests/stages/align runs it",
    "rlhf doctor --base": "a probe of minutes; tests/stages/test_estimate.py runs it",
    "rlhf doctor --sampler": "asks a server; tests/stages/ppo/test_rollout_servers.py runs it",
    "rlhf label --host 0.0.0.0": "needs the reader's database server; tests/browser runs the app on PostgreSQL",
    "accelerate": "tests/stages/ppo/test_ppo_processes.py runs it",
    "rlhf chat --policy FOLDER": "FOLDER is a model of the reader's; tests/stages/talk and tests/rlhf/serving run both options",
    "rlhf hand-over": "tests/stages/ppo/test_hand_over.py runs it",
    "rlhf ppo --extend": "tests/stages/ppo/test_ppo_cli.py makes a run longer",
    "torchrun": "tests/stages/ppo and tests/slow run two and four processes, and two hosts",
    "srun": "needs a cluster; what it starts is torchrun",
    "pg_dump": "PostgreSQL's own program, on the reader's server",
    "sh handed-over/run.sh": "needs verl or OpenRLHF and GPUs; tests/stages/ppo/test_hand_over.py reads what is handed over",
    "curl": "needs a token of a running server; tests/annotate/app and tests/browser ask these addresses",
    "rlhf labels user add": "asks for a password at a terminal; tests/stages/cli/test_cli.py answers",
}
RUN = ["README.md", "labels.md", "ppo.md", "serving.md"]
INSTEAD = {"make quickstart": "rlhf quickstart --recipe smoke"}
SERVERS = "rlhf label|rlhf chat --web|rlhf serve"
TINY = {
    "rlhf chat": ["--max-new-tokens", "4"],
    "rlhf sample": ["--max-new-tokens", "8", "--num-prompts", "4"],
    "rlhf ppo": ["--episodes", "16", "--set", "batch_size=8", "--set", "minibatch_size=8", "--max-new-tokens", "8", "--name", "tiny"],
    "rlhf sft": ["--epochs", "1"],
    "rlhf reward": ["--epochs", "1", "--set", "prompts_per_batch=4"],
    "rlhf eval": ["--max-new-tokens", "8"],
    "rlhf best-of-n": ["--max-new-tokens", "8"],
    "rlhf pretrain": ["--recipe", "smoke"],
}  # fmt: skip


def commands_in(text):
    """The command lines of a page's blocks, in order, comments and drawings aside."""
    for language, block in BLOCK.findall(text):
        for line in block.splitlines() if language in ("", "sh", "bash") else ():
            command = ASSIGNED.sub("", line.split("   #")[0].strip())
            if command.split(" ")[0] in PROGRAMS and "─" not in command:
                yield command


COMMANDS = [(page.name, command) for page in PAGES for command in commands_in(page.read_text())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages say the reader has: files of his own and a module of rewards."""
    folder = tmp_path_factory.mktemp("reader")
    questions = [f"What color is boat {i}?" for i in range(12)]
    (folder / "corpus.txt").write_text(
        "\n\n".join(f"Boat {i} is blue. Tom likes boat {i}." for i in range(300))
    )
    write(folder / "demonstrations.jsonl", *[{"prompt": q, "completion": "It is blue."} for q in questions])
    for name in ("prompts", "held_out"):
        write(folder / f"{name}.jsonl", *[{"prompt": q} for q in questions])
    ranking = {"completions": ["It is blue.", "No.", "Go away now."], "ranks": [0, 1, 2]}
    write(folder / "rankings.jsonl", *[{"prompt": q, **ranking} for q in questions])
    write(folder / "known.jsonl", *[{"prompt": q, **ranking} for q in questions[:2]])
    (folder / "rules.md").write_text("# How to judge\n\nFacts first.\n")
    (folder / "my_rewards.py").write_text(
        "def brevity(prompts, completions):\n    return [-0.1 * len(text.split()) for text in completions]\n"
    )
    return folder


def reason_not_to_run(command):
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


def with_tiny_settings(command):
    more = next((more for start, more in TINY.items() if command.startswith(start)), [])
    return [*shlex.split(command)[1:], *more]


def answers(folder, arguments, port):
    """Start a server, ask for its first page, stop it."""
    command = [sys.executable, "-m", "stages.cli", *arguments, "--port", str(port)]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    server = forked.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.time() + 120
        while time.time() < deadline and server.poll() is None:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20).status < 500
            except urllib.error.HTTPError as refused:
                return refused.code < 500
            except OSError:
                time.sleep(0.1)
        return False
    finally:
        server.terminate()
        server.wait(30)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_every_command_of_the_pages_is_one_that_the_parser_takes():
    asked = [command for _, command in COMMANDS if command.startswith("rlhf ") and "…" not in command]
    assert len(asked) > 25
    for command in asked:
        parse(shlex.split(command)[1:])


def test_the_commands_of_the_pages_run_in_the_order_they_stand(folder):
    for page, written in sorted(COMMANDS, key=lambda pair: [*RUN, pair[0]].index(pair[0])):
        command = INSTEAD.get(written, written)
        if page not in RUN or reason_not_to_run(command):
            continue
        if re.fullmatch(SERVERS, command):
            assert answers(folder, shlex.split(command)[1:], free_port()), command
            continue
        done = rlhf(*with_tiny_settings(command), folder=folder, input="Hello\n")
        assert done.returncode == 0, f"{page}: {command}\n{done.stderr[-2000:]}"


def test_what_does_not_run_is_named_with_its_reason():
    elsewhere = (
        "rlhf label",
        "rlhf store export",
        "rlhf labels backup",
        "rlhf labels check",
        "rlhf space",
        'python -c "from transformers',
    )  # run by tests beside this one tests/browser/test_deploying.py, tests/stages/test_space.py
    left = [
        f"{page}: {command}" for page, command in COMMANDS
        if page not in RUN and not reason_not_to_run(command) and not command.startswith(elsewhere)
    ]  # fmt: skip
    assert left == []
    assert [start for start in NOT_RUN if not any(command.startswith(start) for _, command in COMMANDS)] == []


def test_an_exported_policy_opens_in_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_store(tmp_path / "store")
    target = tmp_path / "exported"
    assert rlhf("store", "export", "ppo", target, folder=tmp_path).returncode == 0
    ours = load_policy(target).state_dict()
    assert AutoModelForCausalLM.from_pretrained(target).state_dict().keys() <= ours.keys() | {
        "lm_head.weight"
    }
