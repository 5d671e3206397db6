"""PPO through vLLM itself: RLHF_VLLM names its program, RLHF_VLLM_MODEL a model's folder (else a small random one).

Two servers of the model at most, each with 128 MiB for keys and values.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest

from rlhf.models.adapters import untie
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from tests.command_line import rlhf
from tests.tiny_ppo import PROMPTS, TOKENIZER, llama

VLLM, MODEL = os.environ.get("RLHF_VLLM"), os.environ.get("RLHF_VLLM_MODEL")
SETTINGS = {
    "episodes": 80, "batch_size": 8, "minibatch_size": 8, "micro_batch_size": 8, "max_new_tokens": 16, "bf16": "off",
    "advantages": "reinforce++", "warmup_iterations": 0, "lr": 5e-5 if MODEL else 1e-2,
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not VLLM, reason="RLHF_VLLM names no vllm program")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model whose head is its embedding, prompts and a reward."""
    folder = tmp_path_factory.mktemp("vllm")
    if MODEL:
        load_policy(MODEL).save_pretrained(folder / "model")
        load_tokenizer(MODEL).save(folder / "model")
    else:
        sizes = {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        llama(
            tie_word_embeddings=True, initializer_range=0.1, max_position_embeddings=256, **sizes
        ).save_pretrained(folder / "model")
        TOKENIZER.save(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    (folder / "my_rewards.py").write_text(
        "def letters(prompts, completions):\n    return [text.count('e') / 4 for text in completions]\n"
    )
    for name in ("tied", "untied"):
        load_policy(folder / "model").save_pretrained(folder / name)
        load_tokenizer(folder / "model").save(folder / name)
    untie(folder / "untied")
    return folder


@contextmanager
def serving(*folders):
    """vLLM's servers of these folders, one each: their processes and addresses."""
    servers, surroundings = [], {
        **os.environ, "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }  # fmt: skip
    for folder in folders:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            VLLM, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "policy",
            "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager",
            "--kv-cache-memory-bytes", "128M", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1",
        ]  # fmt: skip
        with open(f"{folder}-{port}.log", "w") as log:
            process = subprocess.Popen(
                command, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
        servers.append((process, f"http://127.0.0.1:{port}"))
    try:
        for process, url in servers:
            wait_for(process, url)
        yield servers
    finally:
        for process, _ in servers:
            kill(process)


def wait_for(process, url, patience=900):
    for _ in range(patience):
        assert process.poll() is None, "vllm ended; its log stands beside the folder"
        try:
            if httpx.get(f"{url}/health", timeout=60).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise AssertionError(f"{url} is not there after {patience} s")


def kill(process):
    """A server and its workers at once, as a machine that fails."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ppo(place, name, status=0, **more):
    """The history of a run by the command line; what it says where another status is expected."""
    settings = SETTINGS | {"name": name, "policy": place / "model", "prompts": place / "prompts.jsonl"} | more
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = rlhf("ppo", "--store", place / "store", "--reward", "my_rewards:letters", *chosen, folder=place)
    assert done.returncode == status, done.stderr[-3000:]
    if status:
        return done.stderr
    (entry,) = (place / "store/ppo").glob(f"*-{name}")
    return json.loads((entry / "history.json").read_text())


def by(servers, folder):
    return {"sampler": "vllm", "sampler_urls": ",".join(url for _, url in servers), "sampler_folder": folder}


def test_ten_iterations_of_an_untied_folder_are_our_own_samplers(place):
    with serving(place / "untied") as servers:
        done = rlhf("doctor", "--store", place / "store", "--sampler", servers[0][1])
        assert done.returncode == 0 and "answers with token" in done.stdout
        drawn = ppo(place, "drawn", **by(servers, place / "untied"))
        greedy = ppo(place, "greedy", top_k=1, **by(servers, place / "untied"))
    assert len(drawn) == 10 and max(row["policy/sampling_gap"] for row in drawn) < 1e-4
    print(
        "gaps, mean and most:",
        max(row["policy/sampling_gap"] for row in drawn),
        max(row["policy/sampling_gap_max"] for row in drawn),
    )
    own = ppo(place, "own", top_k=1)
    assert [row["reward/score"] for row in own] == [row["reward/score"] for row in greedy]
    for one, other in zip(own, greedy, strict=True):
        assert one["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-4)


def test_a_tied_head_stays_old_and_is_refused(place):
    """Should a newer vLLM read it anew, this test says so: then --untied can go."""
    with serving(place / "tied") as servers:
        assert "It has other weights" in ppo(place, "stale", status=2, **by(servers, place / "tied"))


def test_a_server_of_a_folder_that_nobody_writes_is_refused(place):
    with serving(place / "tied") as servers:
        assert "It has other weights" in ppo(place, "elsewhere", status=2, **by(servers, place / "untied"))


def test_one_of_two_servers_killed_in_a_batch_loses_no_row(place):
    with serving(place / "untied", place / "untied") as servers:
        dying, url = servers[1]  # the last to read the weights
        log = place / f"untied-{url.rsplit(':', 1)[1]}.log"

        def kill_in_the_second_batch():
            while log.read_text().count("POST /reset_prefix_cache") < 2 and dying.poll() is None:
                time.sleep(0.01)
            time.sleep(0.5)
            kill(dying)

        killer = threading.Thread(target=kill_in_the_second_batch)
        killer.start()
        history = ppo(place, "killed", max_new_tokens=64, **by(servers, place / "untied"))
        killer.join()
    assert log.read_text().count("POST /v1/completions") == 4  # those of the first batch
    assert len(history) == 10 and all(row["policy/sampling_gap"] < 1e-4 for row in history)
