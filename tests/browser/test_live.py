"""A live batch: a checkpoint answers while people label, from a process that may die."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import select
from transformers import GPT2Config

from annotate.store.accounts import add_account
from annotate.store.schema import Completion
from annotate.work.history import history
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from tests.browser.conftest import PASSWORD, World, upload


@pytest.fixture
def store(tmp_path):
    """A checkpoint store with a small model that has learned nothing."""
    store = Store(tmp_path / "store")
    tokenizer = train_tokenizer(["The red kite is in the park. Tom has a blue boat."] * 5, 400)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=16, n_head=2, n_positions=256,
        eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, bos_token_id=tokenizer.document_end_id,
    )  # fmt: skip
    with store.new("sft", "tiny", parents={}, settings={}, data={}, seed=0) as writer:
        GPT(config).save_pretrained(writer.path)
        tokenizer.save(writer.path)
    return store


def samplers(server):
    """Process ids of the app's sampling processes."""
    children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return [int(pid) for file in children for pid in file.read_text().split()]


def rank_one(page):
    """Rank the task that is there or comes, by keyboard, and wait until the next one is there or awaited."""
    page.wait_for_selector("#board:not(.sending) .foot")
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#board:not(.sending) > *")


@pytest.mark.slow
def test_answers_come_while_people_label_and_again_after_the_sampler_was_killed(store, tmp_path, browse):
    labels = tmp_path / "labels.db"
    world = World(
        str(labels), "--store", str(store.root), "--sample-from", "sft", "--batch", "live", "--k", "3"
    )
    try:
        add_account(world.database, "ann", PASSWORD)
        page = browse(world, "ann")
        page.goto(f"{world.url}/label/?batch=live")
        for number in range(1, 8):  # more than were made ahead
            rank_one(page)
            assert len(history(world.database, "ann")) == number
            if number == 2:
                (old,) = samplers(world.server)
                os.kill(old, signal.SIGKILL)
        assert samplers(world.server) != [old]
        task = history(world.database, "ann")[0].task
        assert 2 <= len(set(task.completions)) <= 3
        assert "libtorch" not in Path(f"/proc/{world.server.process.pid}/maps").read_text()
        (young,) = samplers(world.server)
    finally:
        world.close()
    for _ in range(200):  # the app was killed, and its sampler goes by itself
        if not Path(f"/proc/{young}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the sampler outlived the app")


@pytest.mark.slow
def test_a_lead_starts_a_live_batch_in_the_form(store, tmp_path, browse):
    world = World(str(tmp_path / "labels.db"), "--store", str(store.root))
    try:
        lead, ann = world.person("lea", "lead"), world.person("ann")
        assert samplers(world.server) == []
        file = tmp_path / "prompts.jsonl"
        file.write_text("\n".join(json.dumps({"prompt": f"Is the kite red? {i}"}) for i in range(40)))
        page = browse(world, lead)
        page.goto(world.url + "/lead/new")
        page.locator("#new-name textarea, #new-name input").fill("fresh")
        upload(page, "#new-file", file)
        page.locator("#new-checkpoint input").fill("sft")
        page.get_by_role("option", name="sft/0001-tiny").click()
        page.get_by_label("Answers to each prompt").fill("3")
        page.click("#create button, button#create")
        expect(page.locator("#created")).to_contain_text("fresh: 40 tasks")
        page = browse(world, ann)
        page.goto(f"{world.url}/label/?batch=fresh")
        rank_one(page)
        (past,) = history(world.database, ann)
        assert past.task.prompt.startswith("Is the kite red?")
        with world.database.read() as connection:
            query = select(Completion.checkpoint, Completion.sampling).distinct()
            assert [row.checkpoint for row in connection.execute(query)] == ["sft/0001-tiny"]
        world.server.kill()
        world.server.start()  # an app that starts anew goes on sampling for the batches that want it
        assert len(samplers(world.server)) == 1
    finally:
        world.close()
