"""Numbers for Prometheus: how many answers, how fast, how long they wait."""

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rlhf.serving.completions import Done, Event, Failed, Piece, Started
from rlhf.serving.engine_process import EngineProcess, Pending

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Hears every event of an engine process and counts."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine, self.registry = engine, CollectorRegistry()
        by_model: Any = {"labelnames": ["model"], "registry": self.registry}
        self.prompt_tokens = Counter("rlhf_prompt_tokens", "Tokens read in prompts", **by_model)
        self.completion_tokens = Counter("rlhf_completion_tokens", "Tokens written in answers", **by_model)
        self.answers = Counter(
            "rlhf_answers", "Answers by how they ended", ["model", "reason"], registry=self.registry
        )
        seconds: Any = {**by_model, "buckets": SECONDS}
        self.first = Histogram(
            "rlhf_first_token_seconds", "From request to the first of the answer", **seconds
        )
        self.whole = Histogram("rlhf_answer_seconds", "From request to the answer's end", **seconds)
        self.running = Gauge("rlhf_requests_running", "Answers under way", **by_model)
        self.waiting = Gauge("rlhf_requests_waiting", "Requests in line", **by_model)
        self.starts = Gauge(
            "rlhf_engine_starts", "Times the model process was started", registry=self.registry
        )
        engine.listeners.append(self.hear)

    def hear(self, pending: Pending, event: Event) -> None:
        """Count one event of an answer."""
        if pending.command[0] != "submit":
            return
        model = _name(pending.command[2])
        if isinstance(event, Started):
            self.prompt_tokens.labels(model).inc(event.prompt_tokens)
        elif isinstance(event, Piece) and pending.num_pieces == 1:
            self.first.labels(model).observe(pending.age_s)
        elif isinstance(event, Done):
            self.completion_tokens.labels(model).inc(event.completion_tokens)
            self.whole.labels(model).observe(pending.age_s)
            self.answers.labels(model, event.reason).inc()
        elif isinstance(event, Failed):
            self.answers.labels(model, f"failed: {event.kind}").inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' format. Raises ClosedError."""
        status = self.engine.status()
        for gauge, name in ((self.running, "running"), (self.waiting, "waiting")):
            gauge.clear()
            for folder, state in status.items():
                gauge.labels(_name(folder)).set(state[name])
        self.starts.set(self.engine.num_starts)
        return generate_latest(self.registry)


def _name(folder: str) -> str:
    """A checkpoint's reference in the store (ppo/0001-name), or the last two parts of another folder."""
    return "/".join(Path(folder).parts[-2:])
