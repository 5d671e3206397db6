"""Talking: answers stream, conversations are kept or forgotten, Ctrl-C stops an answer only."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from rlhf.model import load_policy
from rlhf.tokenizer import load_tokenizer
from stages import chat
from stages.settings import ChatSettings


def talk(store, lines, **settings):
    out = io.StringIO()
    chat.run(
        ChatSettings(policy="base", **{"max_new_tokens": 6} | settings),
        store,
        io.StringIO("\n".join(lines) + "\n"),
        out,
    )
    return out.getvalue()


def test_every_line_gets_an_answer_and_the_conversation_is_saved(base_store, tmp_path):
    path = tmp_path / "chat.jsonl"
    talk(
        base_store, ["Hello", "And then?", f"/save {path}", "/reset", f"/save {path}", "/quit", "never read"]
    )
    first, second = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [message["role"] for message in first] == ["user", "assistant", "user", "assistant"]
    assert first[2]["content"] == "And then?"
    assert second == []


def test_the_same_seed_says_the_same(base_store):
    assert (
        talk(base_store, ["Hello"], seed=1)
        == talk(base_store, ["Hello"], seed=1)
        != talk(base_store, ["Hello"], seed=2)
    )


def test_a_full_context_forgets_the_oldest_turns_and_keeps_the_system_text(base_store):
    folder = base_store.resolve("base").path
    settings = ChatSettings(policy="base", system="Be brief.", max_new_tokens=32)
    conversation = chat.Conversation(settings, load_policy(folder), load_tokenizer(folder))
    for number in range(12):
        conversation.messages += [
            {"role": "user", "content": f"question {number} about the red kite"},
            {"role": "assistant", "content": "answer"},
        ]
    conversation.messages.append({"role": "user", "content": "last"})
    assert conversation.fit() > 0
    assert (
        conversation.messages[0]["content"] == "Be brief." and conversation.messages[-1]["content"] == "last"
    )
    assert len(conversation.tokenizer.encode_prompt(conversation.messages)) + 32 <= 160


def test_a_file_that_cannot_be_written_is_said(base_store, tmp_path):
    assert "not saved" in talk(base_store, ["Hello", f"/save {tmp_path}/no/such/folder/x.jsonl"])


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_ctrl_c_stops_the_answer_and_not_the_program(base_store):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "stages.cli", "chat", "--policy", "base", "--max-new-tokens", "120"]
    process = subprocess.Popen(
        [*command, "--store", str(base_store.root)], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL
    )
    try:
        until_quiet(master, "> ", patience=60)
        stopped = 0
        # An answer may end before the signal comes; five tries make it certain that one is stopped halfway.
        for _ in range(5):
            os.write(master, b"Hello there\n")
            read_some(master, len("Hello there\r\n") + 1)
            process.send_signal(signal.SIGINT)
            stopped += "…" in until_quiet(master, "> ")
            assert process.poll() is None
        os.write(master, b"/quit\n")
        assert process.wait(timeout=60) == 0
        assert stopped
    finally:
        process.kill()


def read_some(master, num_bytes):
    """At least num_bytes of what the program has printed since the last read."""
    seen = b""
    while len(seen) < num_bytes:
        seen += os.read(master, 1)
    return seen


def until_quiet(master, ending, patience=30.0):
    """What the program prints until it has said `ending` and then nothing for a while."""
    seen, started = b"", time.monotonic()
    while time.monotonic() - started < patience:
        ready, _, _ = select.select([master], [], [], 0.5)
        if ready:
            seen += os.read(master, 1024)
        elif seen.decode(errors="replace").endswith(ending):
            return seen.decode(errors="replace")
    raise AssertionError(f"no {ending!r} at the end of {seen!r}")
