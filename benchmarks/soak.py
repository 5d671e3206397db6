"""Many connections for a while: does anything leak, does anybody wait too long, is every answer the one given alone?

python benchmarks/soak.py                                 2,000 requests of mixed length by 200 connections, a small model
python benchmarks/soak.py --model store/ppo/0001-NAME --requests 2000 --connections 200 --answers-at-once 64
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from serve import Server, ours, resident_mib

WORDS = ["where", "is", "the", "red", "kite", "and", "the", "blue", "boat", "of", "Tom", "in", "the", "park"]
SHORT = 8  # tokens; such an answer is a short one
HANG_UPS = 0.1  # share of the requests whose client leaves in the middle


@dataclass
class Seen:
    """What the connections saw."""

    first_s: list[float] = field(default_factory=list)  # from request to the first text
    first_of_short_s: list[float] = field(default_factory=list)
    equal: int = 0
    different: int = 0
    hung_up: int = 0
    turned_away: int = 0  # 429, after which the connection asks again


def small(folder: Path) -> Path:
    """Two blocks with random weights and a context of 512."""
    import torch
    from transformers import GPT2Config

    from rlhf.models.gpt import GPT
    from rlhf.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, 300)
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 512, "initializer_range": 0.2}
    ends = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.document_end_id}
    GPT(GPT2Config(vocab_size=tokenizer.vocab_size, **size, **ends)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def bodies(model: str, number: int, draw: random.Random) -> list[dict[str, Any]]:
    """Different requests: prompts of 1 to 150 words, answers of 1 to 200 tokens, half of them short."""
    made = []
    for seed in range(number):
        prompt = " ".join(draw.choices(WORDS, k=draw.choice((1, 5, 20, 150))))
        length = draw.randint(1, SHORT) if seed % 2 else draw.randint(50, 200)
        asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "seed": seed}
        made.append({**asked, "max_tokens": length, "stream": True})
    return made


async def soak(server: Server, num_requests: int, num_connections: int) -> dict[str, Any]:
    """First each different request alone, then all connections at once."""
    draw = random.Random(0)
    different = bodies(server.model, 100, draw)
    seen, memory = Seen(), []
    async with httpx.AsyncClient(timeout=600) as web:
        alone = [await answer(web, server, body, Seen(), None) for body in different]
        left = iter([draw.randrange(len(different)) for _ in range(num_requests)])

        async def connection() -> None:
            # A client of its own: one pool lets a request wait for others' connections, half a minute with 200 of them.
            async with httpx.AsyncClient(timeout=600, verify=False) as own:
                for number in left:
                    leaves_after = draw.randint(1, 5) if draw.random() < HANG_UPS else None
                    said = await answer(own, server, different[number], seen, leaves_after)
                    seen.hung_up += said is None
                    seen.equal += said == alone[number]
                    seen.different += said is not None and said != alone[number]
                    memory.append(resident_mib(server.process.pid))

        began = time.monotonic()
        await asyncio.gather(*(connection() for _ in range(num_connections)))
        seconds = time.monotonic() - began
        await asyncio.sleep(2)
        health = (await web.get(f"{server.url}/health")).json()
    return summary(seen, memory, seconds) | {f"{name}_at_the_end": count for name, count in health.items()}


async def answer(
    web: httpx.AsyncClient, server: Server, body: dict[str, Any], seen: Seen, leaves_after: int | None
) -> str | None:
    """The text, asked for until it is given; None where the client left in the middle."""
    asked = time.monotonic()
    said: list[str] = []
    while True:
        async with web.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
            if response.status_code == 429:
                seen.turned_away += 1
                await asyncio.sleep(float(response.headers["Retry-After"]))
                continue
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if not said:
                    wait = time.monotonic() - asked
                    seen.first_s.append(wait)
                    if body["max_tokens"] <= SHORT:
                        seen.first_of_short_s.append(wait)
                said.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
                if leaves_after is not None and len(said) > leaves_after:
                    return None
            return "".join(said)


def summary(seen: Seen, memory: list[float], seconds: float) -> dict[str, Any]:
    """The numbers to show; memory after a third of the requests and at the end, in MiB."""
    counts = {name: getattr(seen, name) for name in ("equal", "different", "hung_up", "turned_away")}
    waits = {"first": seen.first_s, "first_of_short": seen.first_of_short_s}
    told: dict[str, Any] = {**counts, "seconds": round(seconds, 1)}
    for name, values in waits.items():
        told[f"{name}_p50_s"] = round(statistics.median(values), 3)
        told[f"{name}_max_s"] = round(max(values), 3)
    third, last = memory[len(memory) // 3], memory[-1]
    return told | {"mib_after_a_third": round(third), "mib_at_the_end": round(last)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--answers-at-once", default="64")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = small(folder / "small") if options.model == "small" else Path(options.model).resolve()
        flags = (
            "--precision",
            "float32",
            "--max-waiting",
            "256",
            "--answers-at-once",
            options.answers_at_once,
        )
        with ours(model, folder, *flags) as server:
            print(json.dumps(asyncio.run(soak(server, options.requests, options.connections))), flush=True)


if __name__ == "__main__":
    main()
