"""Servers of OpenAI's protocol, ours and others', each on a free port for as long as it is measured."""

import contextlib
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 900  # vLLM takes minutes on a busy machine


@dataclass
class Server:
    """A server process that answers in OpenAI's protocol."""

    name: str
    url: str
    model: str
    process: Any


@contextlib.contextmanager
def served(name: str, model: str, command: list[str], log: Path, **more: str) -> Iterator[Server]:
    """Run `command` with a free port, and `more` in its environment, until the block ends.

    Raises SystemExit with the end of its log where it does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*command, "--port", str(port)]
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | more)
    try:
        until = time.monotonic() + PATIENCE_S
        while not has_a_model(f"http://127.0.0.1:{port}"):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{shlex.join(command)}\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield Server(name, f"http://127.0.0.1:{port}", model, process)
    finally:
        process.terminate()
        process.wait(30)


def has_a_model(url: str) -> bool:
    """Whether a server answers; llama.cpp listens before its model is there, and says 503."""
    try:
        return httpx.get(f"{url}/v1/models", timeout=5).status_code != 503
    except httpx.HTTPError:
        return False
