"""The sampler of live batches: what is wrong with a prompt gives that one up, what is wrong with all else lets them wait."""

import os

import pytest
from sqlalchemy import text
from transformers import GPT2Config

from annotate.labels import LabelStore
from annotate.store.database import DatabaseDown
from annotate.work import live
from annotate.work.batches import BatchSettings
from rlhf.errors import LabelError
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from stages.cli.main import main
from stages.labeling import live as sampler


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A checkpoint store with a small model that has learned nothing, and one of which a file is gone."""
    store = Store(tmp_path_factory.mktemp("sampler") / "store")
    tokenizer = train_tokenizer(["The red kite is in the park. Tom has a blue boat."] * 5, 400)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=16, n_head=2, n_positions=96,
        eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, bos_token_id=tokenizer.document_end_id,
    )  # fmt: skip
    for name in ("whole", "broken"):
        with store.new("sft", name, parents={}, settings={}, data={}, seed=0) as writer:
            GPT(config).save_pretrained(writer.path)
            tokenizer.save(writer.path)
    next(store.root.glob("sft/*broken*/**/model.safetensors")).unlink()
    return store


@pytest.fixture
def labels(tmp_path):
    with LabelStore(tmp_path / "labels.db") as labels:
        labels.add_labeler("ann")
        yield labels


def batch_of(labels, checkpoint, prompts, name="live"):
    sampling = {"temperature": 1.0, "max_new_tokens": 8}
    live.add_live_batch(
        labels.database, BatchSettings(name=name), prompts, f"sft/{checkpoint}", k=3, sampling=sampling
    )


def counts(labels, name="live"):
    return {state: number for state, number in live.queue_counts(labels.database, name).items() if number}


@pytest.fixture
def work(store, labels, monkeypatch):
    """Sample until there is nothing to do for now."""

    def until_idle():
        def idle(seconds):
            raise SystemExit(0)

        monkeypatch.setattr(sampler, "PAUSE_S", 0)
        monkeypatch.setattr(sampler.time, "sleep", idle)
        with pytest.raises(SystemExit) as ended:
            sampler.work(store, labels.database.engine.url.database, os.getppid())
        return ended.value.code

    return until_idle


def test_a_model_that_cannot_be_loaded_lets_its_prompts_wait_and_others_go_on(labels, work, capsys):
    batch_of(labels, "broken", [f"q{i}" for i in range(8)])
    batch_of(labels, "whole", ["Is the kite red?"], "other")
    assert work() == 1  # to be started again, by Sampler
    assert counts(labels) == {"waiting": 5, "claimed": 3}
    assert counts(labels, "other") == {"done": 1}
    assert capsys.readouterr().err.count("sft/broken cannot be loaded; its prompts wait") == 1
    assert work() == 0 and counts(labels) == {"waiting": 5, "claimed": 3}
    with labels.database.read() as connection:
        assert connection.execute(text("SELECT completed FROM batch WHERE name = 'live'")).scalar() is None


def test_only_the_prompt_that_is_to_blame_is_given_up_and_a_lead_can_want_it_again(labels, work, capsys):
    batch_of(labels, "whole", ["Is the kite red?", "kite " * 400, "Has Tom a boat?"])
    assert work() == 0
    assert counts(labels) == {"done": 2, "failed": 1}
    url = labels.database.engine.url.database
    main(["labels", "batch", "live", "--labels", url, "--retry-failed"])
    assert "1 prompts are to be sampled again" in capsys.readouterr().out
    assert counts(labels) == {"wanted": 1, "done": 2}


def test_answers_wait_while_the_database_is_away(labels, store, monkeypatch, capsys):
    batch_of(labels, "whole", ["Is the kite red?"])
    (request,) = live.claim_requests(labels.database)
    monkeypatch.setattr(sampler, "PAUSE_S", 0)
    fulfil, tries = live.fulfil_request, []

    def away_at_first(*given):
        tries.append(given)
        if len(tries) < 3:
            raise DatabaseDown("the label database cannot be written now: no space left")
        return fulfil(*given)

    monkeypatch.setattr(live, "fulfil_request", away_at_first)
    model = sampler._Model(store, request.checkpoint)
    assert sampler._answer(labels, model, request, lambda: True)
    assert counts(labels) == {"done": 1} and len({given[2] for given in tries}) == 1
    assert "no space left" in capsys.readouterr().err


def test_a_claim_of_a_time_that_has_not_come_is_nobodys(labels):
    batch_of(labels, "whole", ["q"])
    assert live.claim_requests(labels.database) and not live.claim_requests(labels.database)
    with labels.database.write() as connection:  # the server's clock was a year ahead
        connection.execute(text("UPDATE live_request SET claimed = claimed + 31536000"))
    assert len(live.claim_requests(labels.database)) == 1
    with pytest.raises(LabelError, match="no such batch"):
        live.want_failed_again(labels.database, "other")
