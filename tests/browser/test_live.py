"""A live batch: a checkpoint answers while people label, from a process that may die."""

import os
import signal
import time
from pathlib import Path

import pytest
from transformers import GPT2Config

from annotate.accounts import add_account
from annotate.history import history
from rlhf.model import GPT
from rlhf.store import Store
from rlhf.tokenizer import train_tokenizer
from tests.browser.conftest import PASSWORD, World


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


@pytest.mark.slow
def test_answers_come_while_people_label_and_again_after_the_sampler_was_killed(store, tmp_path, browse):
    labels = tmp_path / "labels.db"
    world = World(
        str(labels), "--store", str(store.root), "--sample-from", "sft", "--batch", "live", "--k", "3"
    )
    try:
        add_account(world.database, "ann", PASSWORD)
        page = browse(world, "ann")
        page.goto(f"{world.url}/label?batch=live")
        for number in range(1, 8):  # more than were made ahead
            page.wait_for_selector("main:not(.sending) .foot")
            for key in ("1", "2", "3", "Enter"):
                page.keyboard.press(key)
            page.wait_for_selector("main:not(.sending) > *")
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
