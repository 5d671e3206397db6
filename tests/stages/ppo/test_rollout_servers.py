"""PPO with completions of servers that speak vLLM's protocol: fresh weights, caught stale ones, no row lost."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.errors import InputError, TrainingError
from rlhf.models.adapters import untie
from rlhf.models.checkpoints import load_policy
from tests.command_line import rlhf
from tests.sampler_server import SamplerServer
from tests.tiny_ppo import (
    TOKENIZER,
    config,
    count_e,
    llama,
    policy,
    same,
    scalar_llama,
    tiny_store,
    trainer,
    weights,
)

LEARNS = {"lr": 1e-2, "episodes": 32, "sampler": "vllm"}


@pytest.fixture
def serve(tmp_path):
    """A function that starts servers of a model, all of one folder, and gives the settings that name them."""
    running = []

    def start(model, *kinds):
        folder = tmp_path / "served"
        model.save_pretrained(folder)
        TOKENIZER.save(folder)
        running.extend(SamplerServer(folder, **kind) for kind in kinds)
        return {
            "sampler_urls": ",".join(server.url for server in running),
            "sampler_folder": str(folder),
        }, running

    yield start
    for server in running:
        server.close()


@pytest.mark.parametrize("cut", [{}, {"top_p": 0.8}, {"temperature": 0.7}], ids=str)
def test_servers_draw_from_the_policy_of_each_iteration(serve, cut):
    where, (server,) = serve(policy(), {})
    made = trainer(config(**LEARNS, **where, **cut), reward_model=count_e)
    start = weights(made.model)
    history = made.train()
    assert server.reloads == 4 and server.answers == 32
    served = Path(where["sampler_folder"])  # the servers may be another user's
    assert (served / "model.safetensors").stat().st_mode == (served / "config.json").stat().st_mode
    assert max(row["policy/sampling_gap"] for row in history) < 1e-4
    assert all(row["policy/sampling_gap"] <= row["policy/sampling_gap_max"] < 1e-2 for row in history)
    assert not same(start, weights(made.model))
    assert [row["completion/length"] for row in history] != [8.0] * 4 or history[0]["completion/ended"] == 0


def test_greedy_completions_of_a_server_are_those_of_our_own_sampler(serve):
    own = trainer(config(top_k=1, lr=1e-2), reward_model=count_e).train()
    where, _ = serve(policy(), {})
    served = trainer(config(top_k=1, lr=1e-2, sampler="vllm", **where), reward_model=count_e).train()
    for one, other in zip(own, served, strict=True):
        assert one["reward/score"] == other["reward/score"]
        assert one["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-4)


@pytest.mark.parametrize("part", ["lm_head", "h.0.ln_1", "wpe"])
def test_weights_that_a_server_kept_are_found_before_anything_is_learned_from_them(serve, part):
    model = policy(initializer_range=0.2)
    where, _ = serve(model, {"keeps": [part]})
    made = trainer(config(**LEARNS, **where), model=model, reward_model=count_e)
    with pytest.raises(TrainingError, match="It has other weights"):
        made.train()
    assert made.learner.iteration == 1  # the first batch was of the weights that it had begun with


TIED = {
    "gpt": lambda: (policy(initializer_range=0.2), count_e),
    "llama": lambda: (llama(tie_word_embeddings=True, initializer_range=0.2), scalar_llama()),
}


@pytest.mark.parametrize("make", TIED.values(), ids=TIED)
def test_the_old_head_of_a_tied_model_is_found(serve, make):
    model, reward = make()
    where, _ = serve(model, {"packs": True})
    made = trainer(config(**LEARNS, **where), model=model, reward_model=reward)
    with pytest.raises(TrainingError, match="export POLICY FOLDER --untied"):
        made.train()


@pytest.mark.parametrize("make", TIED.values(), ids=TIED)
def test_a_server_that_keeps_tied_heads_serves_an_untied_folder(serve, make):
    model, reward = make()
    where, (server,) = serve(model, {"packs": True})
    untie(server.folder)
    server.reload()
    made = trainer(config(**LEARNS, **where), model=model, reward_model=reward)
    assert max(row["policy/sampling_gap_max"] for row in made.train()) < 1e-3
    assert server.reloads == 5 and not server.model.config.tie_word_embeddings
    assert made.model.config.tie_word_embeddings


def test_a_server_that_dies_in_a_batch_loses_no_row(serve):
    where, (one,) = serve(policy(), {})
    calm = trainer(config(**LEARNS, **where), reward_model=count_e)
    whole = calm.train()
    one.close()
    where, servers = serve(policy(), {"dies_after": 3}, {})
    urls = ",".join(server.url for server in servers[1:])
    made = trainer(config(**LEARNS, **where | {"sampler_urls": urls}), reward_model=count_e)
    assert made.train() == whole and same(weights(made.model), weights(calm.model))
    assert servers[1].answers == 3 and servers[2].answers == 29


def test_servers_share_the_rows_of_a_batch(serve):
    where, servers = serve(policy(), {}, {})
    trainer(config(**LEARNS, **where), reward_model=count_e).train()
    assert min(server.answers for server in servers) >= 8 and sum(server.answers for server in servers) == 32


def test_without_a_server_left_the_run_ends_and_goes_on_later(serve, tmp_path):
    where, (server,) = serve(policy(), {"dies_after": 11})
    args = config(**LEARNS, **where, save_every=1)
    made = trainer(args, reward_model=count_e, output_dir=tmp_path / "work")
    with pytest.raises(TrainingError, match="no sampler answers at http"):
        made.train()
    server.left = None
    made = trainer(args, reward_model=count_e, output_dir=tmp_path / "work")
    assert made.learner.iteration == 1 and len(made.train()) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sampler": "vllm"}, "needs sampler_urls"),
        ({"sampler": "vllm", "sampler_urls": "http://x"}, "sampler_folder"),
        ({"sampler_urls": "http://x"}, "set sampler = vllm"),
    ],
    ids=str,
)
def test_half_a_sampler_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        trainer(config(**given))


def test_a_folder_that_nobody_serves_is_refused(serve, tmp_path):
    where, _ = serve(policy(), {})
    made = trainer(config(**LEARNS, **where | {"sampler_folder": str(tmp_path / "other")}))
    with pytest.raises(InputError, match="no model is there"):
        made.train()


def test_a_server_of_another_protocol_is_named(serve):
    where, (server,) = serve(policy(), {})
    server.answer = lambda path, content: (404, {"detail": "Not Found"})
    with pytest.raises(InputError, match="VLLM_SERVER_DEV_MODE=1"):
        trainer(config(**LEARNS, **where)).train()


def test_the_doctor_asks_servers_without_touching_their_weights(serve, tmp_path):
    where, (server,) = serve(policy(), {})
    done = rlhf("doctor", "--sampler", where["sampler_urls"], folder=tmp_path)
    assert done.returncode == 0 and f"{server.url} answers with token" in done.stdout and server.reloads == 0
    done = rlhf("doctor", "--sampler", "http://127.0.0.1:9", folder=tmp_path)
    assert done.returncode == 2 and "http://127.0.0.1:9 does not answer: ConnectError" in done.stderr


def test_the_doctor_names_the_option_that_a_server_was_started_without(serve, tmp_path):
    _, (raw, user) = serve(policy(), {"processes": False}, {})
    answer = user.answer
    user.answer = lambda path, asked: answer(path, asked) if path.startswith("/v1/") else (404, {})
    for server, said in ((raw, "--logprobs-mode processed_logprobs"), (user, "VLLM_SERVER_DEV_MODE=1")):
        done = rlhf("doctor", "--sampler", server.url, folder=tmp_path)
        assert done.returncode == 2 and said in done.stderr


def test_an_untied_export_computes_the_same_by_a_head_of_its_own(tmp_path):
    store = tiny_store(tmp_path / "store")
    done = rlhf("store", "export", "sft", tmp_path / "served", "--untied", "--store", store.root)
    assert done.returncode == 0
    exported, ids = load_policy(tmp_path / "served"), torch.arange(12)[None]
    torch.testing.assert_close(exported(ids).logits, policy().eval()(ids).logits, rtol=0, atol=0)
    assert exported.lm_head.weight is not exported.transformer.wte.weight
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "served")
    torch.testing.assert_close(theirs(ids).logits, exported(ids).logits, atol=1e-5, rtol=1e-5)
    assert store.verify() == []
