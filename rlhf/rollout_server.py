"""Completions by servers of vLLM's protocol: token ids in, ids and the log-probabilities they were drawn with out.

The servers read the policy's weights from a folder that trainer and servers share (`vllm serve FOLDER`), anew before each
iteration. Each row is a request of its own with its own seed, so that it is the same whichever server draws it, and a
server that dies loses none: its rows go to the others.
"""

import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rlhf.durable import give_usual_rights
from rlhf.errors import InputError, TrainingError
from rlhf.sampling.generate import Sample, SamplingSettings

AT_ONCE = 64  # requests that one server holds; it batches them
ANSWER_S, CONNECT_S = 600.0, 5.0
MODEL = "policy"  # --served-model-name
# Mean and largest gap in nats a token between the server's log-probabilities and the trainer's, by the server's format.
# A server that had kept an old head after a reload was off by 0.022 on average and 0.70 at most, in bfloat16.
GAPS = {"float32": (1e-4, 1e-2), "bfloat16": (0.015, 0.5)}


@dataclass
class Server:
    """One address, and the version of the weights that it last said it had read; None: it must read them anew."""

    url: str
    version: int | None = None


class RolloutServers:
    """Servers that hold one policy. folder: what all of them serve; it must be theirs and the trainer's."""

    def __init__(self, urls: Sequence[str], folder: str | Path, client: httpx.Client | None = None) -> None:
        if not urls:
            raise InputError("sampler = vllm: name the servers, sampler_urls = http://host:8000,…")
        self.servers, self.folder = [Server(url.rstrip("/")) for url in urls], Path(folder)
        limits = httpx.Limits(max_connections=AT_ONCE * len(urls))
        self.client = client or httpx.Client(
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S), limits=limits
        )

    def write(self, save: Callable[[Path, bool], Any]) -> None:
        """Put new weights into the folder; `save` writes a model to the one it is given, untied or not, as the folder's is.

        Files are replaced one by one, each whole: a server that starts meanwhile never reads half of one.
        Raises InputError where the folder has no model.
        """
        if not (self.folder / "config.json").exists():
            raise InputError(
                f"sampler_folder {self.folder}: no model is there; `rlhf store export POLICY {self.folder} --untied` and "
                "serve it"
            )
        is_tied = json.loads((self.folder / "config.json").read_text()).get("tie_word_embeddings", True)
        fresh = self.folder / f".new-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            save(fresh, not is_tied)
            give_usual_rights(fresh)  # the servers may be another user's
            for file in sorted(fresh.glob("*.safetensors*")):
                os.replace(file, self.folder / file.name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def reload(self, version: int) -> None:
        """Let every server that answers read the folder; raises TrainingError where none does."""
        for server in self.servers:
            server.version = None
            try:
                self._post(server, "/collective_rpc", {"method": "reload_weights"})
                self._post(server, "/reset_prefix_cache", {})
                server.version = version
            except (httpx.HTTPError, TrainingError):
                continue
        self._alive()

    def complete(
        self,
        prompts: Sequence[list[int]],
        settings: SamplingSettings,
        stop_ids: frozenset[int],
        seed: int,
        places: Sequence[int],
    ) -> list[Sample]:
        """One completion of each prompt, in the order of the prompts; row i draws from (seed, places[i]).

        Raises TrainingError where no server is left, InputError for a request that a server does not take.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for row in range(len(prompts)):
            waiting.put(row)
        samples: dict[int, Sample] = {}
        problems: list[Exception] = []

        def work(server: Server) -> None:
            while server.version is not None and len(samples) < len(prompts) and not problems:
                try:
                    row = waiting.get(timeout=0.05)
                except queue.Empty:
                    continue  # another server may die and give its rows back
                try:
                    request = request_of(prompts[row], settings, stop_ids, row_seed(seed, places[row]))
                    samples[row] = self._sample(server, request, stop_ids)
                except httpx.HTTPError:
                    server.version = None
                    waiting.put(row)
                except Exception as problem:
                    problems.append(problem)

        alive = self._alive()
        share = -(-len(prompts) // len(alive))  # no server takes the rows of the others at once
        threads = [
            threading.Thread(target=work, args=(server,), daemon=True)
            for _ in range(min(AT_ONCE, share))
            for server in alive
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        if len(samples) < len(prompts):
            self._alive()
        return [samples[row] for row in range(len(prompts))]

    def probe(self, server: Server) -> str:
        """What a server gives for a prompt of one token, in a line; its weights stay. Raises InputError for what it lacks."""
        try:
            sample, sure = (
                self._sample(
                    server,
                    request_of([1], SamplingSettings(max_new_tokens=1, top_k=k), frozenset(), seed=0),
                    frozenset(),
                )
                for k in (0, 1)
            )
            self._post(server, "/reset_prefix_cache", {})  # where this is, reload_weights is, too
        except httpx.HTTPError as problem:
            raise InputError(f"{server.url} does not answer: {type(problem).__name__}") from None
        if sure.logprobs[0] < -1e-6:
            raise InputError(
                f"{server.url} gives log-probabilities of another distribution than it draws from; start it with "
                "--logprobs-mode processed_logprobs"
            )
        return f"answers with token {sample.tokens[0]} and its log-probability {sample.logprobs[0]:.3f}"

    def _alive(self) -> list[Server]:
        alive = [server for server in self.servers if server.version is not None]
        if not alive:
            raise TrainingError(
                f"no sampler answers at {', '.join(server.url for server in self.servers)}; start them again, and the "
                "same command goes on from the last saved state"
            )
        return alive

    def _sample(self, server: Server, request: dict[str, Any], stop_ids: frozenset[int]) -> Sample:
        version = server.version
        choice = self._post(server, "/v1/completions", request).json()["choices"][0]
        tokens, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not tokens or not logprobs or len(tokens) != len(logprobs):
            raise InputError(
                f"{server.url} gives no token ids with log-probabilities; start it with --logprobs-mode "
                "processed_logprobs, a vLLM that knows return_token_ids"
            )
        return Sample(tokens, logprobs, tokens[-1] in stop_ids, version or 0)

    def _post(self, server: Server, path: str, content: dict[str, Any]) -> httpx.Response:
        answer = self.client.post(server.url + path, json=content)
        if 400 <= answer.status_code < 500:
            raise InputError(
                f"{server.url}{path} refused with {answer.status_code}: {answer.text[:200]}; vLLM takes it with "
                f"VLLM_SERVER_DEV_MODE=1 and --served-model-name {MODEL}"
            )
        return answer.raise_for_status()


def row_seed(seed: int, row: int) -> int:
    """A seed of its own for each row, below 2³¹."""
    return (seed * 1_000_003 + row * 7_919) % (2**31 - 1)


def request_of(
    prompt: list[int], settings: SamplingSettings, stop_ids: frozenset[int], seed: int
) -> dict[str, Any]:
    """What `/v1/completions` is asked for one row."""
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k or -1,
        "seed": seed,
        "stop_token_ids": sorted(stop_ids),
        "logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
    }
