"""Serving under load: tokens per second, waiting and fairness with many streaming clients, and clients that hang up.

python benchmarks/serve.py --model gpt2-size --clients 1 4 16 64            a model of GPT-2's size, random weights
python benchmarks/serve.py --model store/ppo/0001-quickstart-0               any checkpoint
    --beside 'llama.cpp=llama-server -m FILE.gguf -c 16384 -np 16' 'vLLM=vllm serve FOLDER --dtype bfloat16'
                              the same for any server of the protocol that takes --port, in the same run
    --against                 the same for `transformers serve` (two precisions, batching on and off), in the same run
python benchmarks/serve.py --model FOLDER --hangups 300                      seconds; a third of 64 clients hang up
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import shlex
import statistics
import string
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from servers import Server, served

from rlhf.models.tokenizer import load_tokenizer

PROMPTS = ("Tell Finn the sound of an owl.", "Write a sentence about Mia and a mouse.", "Which animal barks?")


def gpt2_size(folder: Path) -> Path:
    """A GPT of GPT-2's size with random weights, and a vocabulary of GPT-2's size: bytes, pairs, triples."""
    import torch
    from transformers import GPT2Config

    from rlhf.models.gpt import GPT
    from rlhf.models.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

    ranks = {bytes([byte]): byte for byte in range(256)}
    letters = string.ascii_lowercase + string.ascii_uppercase + string.digits + " "
    for token in itertools.chain(itertools.product(letters, repeat=2), itertools.product(letters, repeat=3)):
        if len(ranks) < 50257 - len(SPECIAL_TOKENS):
            ranks["".join(token).encode()] = len(ranks)
    specials = {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer(ranks, SPLIT_PATTERN, specials)
    torch.manual_seed(0)
    ends = {
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.document_end_id,
    }
    GPT(GPT2Config(vocab_size=tokenizer.vocab_size, **ends)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def ours(model: Path, folder: Path, *more: str) -> Any:
    command = [
        sys.executable,
        "-m",
        "stages.cli",
        "--store",
        str(folder / "store"),
        "serve",
        "--policy",
        str(model),
    ]
    return served("rlhf serve " + " ".join(more), str(model), [*command, *more], folder / "ours.log")


def theirs(model: Path, folder: Path, *more: str, **environment: str) -> Any:
    program = str(Path(sys.executable).parent / "transformers")
    name = " ".join(["transformers serve", *more, *(f"{key}={value}" for key, value in environment.items())])
    command = [program, "serve", *more, "--device", "cpu"]
    return served(name, str(model), command, folder / "theirs.log", **environment)


@dataclass
class Client:
    """What one client saw: what came of each answer, how long its first piece took, and how long all that followed."""

    texts: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    rest_s: float = 0.0

    async def keep_asking(
        self, web: httpx.AsyncClient, server: Server, number: int, until: float, max_tokens: int
    ) -> None:
        for turn in itertools.count():
            if time.monotonic() > until:
                return
            prompt = PROMPTS[(number + turn) % len(PROMPTS)]
            body = {
                "model": server.model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": 0.0,
                "stream": True,
            }
            await self.ask(web, server, body, until)

    async def ask(self, web: httpx.AsyncClient, server: Server, body: dict[str, Any], until: float) -> None:
        """One answer; only what comes before `until` counts."""
        asked, began, text = time.monotonic(), 0.0, ""
        async with web.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line[6:]).get("choices") or [{}]
                if not (choices[0].get("delta") or {}).get("content"):
                    continue
                now = time.monotonic()
                if until and now > until:
                    break
                text += choices[0]["delta"]["content"]
                if not began:
                    began = now
                    self.first_s.append(now - asked)
                last = now
        if text:
            self.texts.append(text)
            self.rest_s += last - began


async def measure(server: Server, num_clients: int, seconds: float, max_tokens: int) -> dict[str, Any]:
    """`num_clients` clients that ask again as soon as they are answered, for `seconds`."""
    clients = [Client() for _ in range(num_clients)]
    # A connection for each request: llama.cpp's server closes those that it was told to keep.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=600, limits=limits) as web:
        warm = {
            "model": server.model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 2,
            "stream": True,
        }
        await Client().ask(web, server, warm, 0)
        started = time.monotonic()
        until = started + seconds
        await asyncio.gather(
            *(client.keep_asking(web, server, i, until, max_tokens) for i, client in enumerate(clients))
        )
    # A piece may be several tokens, so the tokens are those of the text, by the model's own tokenizer for every server.
    tokenizer = load_tokenizer(server.model)
    got = sorted(sum(len(tokenizer.encode(text)) for text in client.texts) for client in clients)
    first = [value for client in clients for value in client.first_s]
    return {
        "server": server.name.strip(),
        "clients": num_clients,
        "tokens_per_s": round(sum(got) / seconds, 1),
        "first_token_s": [round(value, 3) for value in (statistics.median(first), max(first))],
        "per_token_ms": round(
            1000 * sum(client.rest_s for client in clients) / max(1, sum(got) - len(first)), 1
        ),
        "jain_fairness": round(sum(got) ** 2 / (num_clients * sum(value * value for value in got) or 1), 3),
    }


async def hang_up(
    server: Server, expected: list[tuple[dict[str, Any], str]], seconds: float
) -> dict[str, Any]:
    """64 clients, every third of whom leaves in the middle of each answer; the others compare theirs."""
    until, counts = time.monotonic() + seconds, {"complete": 0, "equal": 0, "hung_up": 0}
    memory: list[float] = []

    async def client(number: int, web: httpx.AsyncClient) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            body, text = draw.choice(expected)
            pieces = draw.randrange(1, 12) if number % 3 == 0 else None
            said = await said_until(web, server, body, pieces)
            if said is None:
                counts["hung_up"] += 1
            else:
                counts["complete"] += 1
                counts["equal"] += said == text

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(min(10.0, seconds / 10))
            memory.append(resident_mib(server.process.pid))

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as web:
        await asyncio.gather(watch(), *(client(number, web) for number in range(64)))
        await asyncio.sleep(2)
        health = (await web.get(f"{server.url}/health")).json()
    third = max(1, len(memory) // 3)
    return {
        **counts,
        **health,
        "mib_after_a_third": round(memory[third]),
        "mib_at_the_end": round(memory[-1]),
    }


async def said_until(
    web: httpx.AsyncClient, server: Server, body: dict[str, Any], pieces: int | None
) -> str | None:
    """The answer; None where the client left after `pieces` pieces of it."""
    said = []
    async with web.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                said.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
                if pieces is not None and len(said) > pieces:
                    return None
    return "".join(said)


def resident_mib(pid: int) -> float:
    """Memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in [pid, *map(int, children)])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def alone(model: Path, num_requests: int, max_tokens: int) -> list[tuple[dict[str, Any], str]]:
    """Requests with the answer that `generate` gives to each in a batch of one."""
    from rlhf.models.checkpoints import load_policy
    from rlhf.models.tokenizer import load_tokenizer
    from rlhf.sampling.generate import SamplingSettings, generate

    policy, tokenizer = load_policy(model), load_tokenizer(model)
    settings = SamplingSettings(max_new_tokens=max_tokens)
    pairs = []
    for seed in range(num_requests):
        messages = [{"role": "user", "content": PROMPTS[seed % len(PROMPTS)]}]
        body = {
            "model": str(model),
            "messages": messages,
            "seed": seed,
            "max_tokens": max_tokens,
            "stream": True,
        }
        prompt = tokenizer.encode_prompt(messages)
        [sample] = generate(policy, [prompt], settings, stop_ids=tokenizer.stop_ids, seed=seed)
        pairs.append((body, tokenizer.decode(sample.tokens)))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2-size")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--against", action="store_true")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--hangups", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = gpt2_size(folder / "gpt2") if options.model == "gpt2-size" else Path(options.model).resolve()
        if options.hangups:
            expected = alone(model, 60, options.max_tokens)
            with ours(model, folder, "--precision", "float32", "--max-waiting", "100") as server:
                print(json.dumps(asyncio.run(hang_up(server, expected, options.hangups))), flush=True)
            return
        servers = [lambda: ours(model, folder, "--answers-at-once", "64", "--precision", options.precision)]
        for named in options.beside:
            name, _, command = named.partition("=")
            servers.append(partial(served, name, str(model), shlex.split(command), folder / f"{name}.log"))
        if options.against:  # with one thread too: two that spin can be slower than one
            one = {"OMP_NUM_THREADS": "1"}
            servers += [
                lambda: ours(model, folder, "--answers-at-once", "64", "--precision", "float32"),
                lambda: theirs(model, folder),
                lambda: theirs(model, folder, **one),
                lambda: theirs(model, folder, "--dtype", "bfloat16", **one),
                lambda: theirs(model, folder, "--continuous-batching", **one),
            ]
        for start in servers:
            with start() as server:
                for num_clients in options.clients:
                    try:
                        row = asyncio.run(measure(server, num_clients, options.seconds, options.max_tokens))
                    except (
                        httpx.HTTPError
                    ) as error:  # a server that hangs up; the others are still to be measured
                        row = {"server": server.name.strip(), "clients": num_clients, "failed": str(error)}
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
