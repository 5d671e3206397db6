"""`samples.jsonl`: what the policy wrote during a run, to be read by people."""

import json
from pathlib import Path

from rlhf.learning.metrics import MetricLog
from rlhf.learning.rewards import completion_texts
from rlhf.learning.rl import kl_k1
from rlhf.models.tokenizer import AnyTokenizer
from stages.ppo.experience import Judged

SHOWN = 8  # completions of an iteration


class SampleLog:
    """Completions by iteration: a line each in a file, and a text in TensorBoard where the log has it."""

    def __init__(self, path: Path | None, log: MetricLog, tokenizer: AnyTokenizer) -> None:
        self.path, self.log, self.tokenizer = path, log, tokenizer

    def write(self, iteration: int, judged: Judged) -> None:
        """The first completions of an iteration with their score and KL in nats, before any update by them."""
        rollout = judged.rollout.select(range(min(SHOWN, len(judged.rollout))))
        ref_logprobs = judged.ref_logprobs[: len(rollout), : rollout.mask.shape[1]]
        kl = kl_k1(rollout.logprobs, ref_logprobs).sum(1)
        rows = [
            {"iteration": iteration, "prompt": prompt, "completion": text, "score": score, "kl": nats, "ended": ended}
            for prompt, text, score, nats, ended in zip(
                rollout.conversations, completion_texts(rollout, self.tokenizer),
                judged.scores.tolist(), kl.tolist(), rollout.ended.tolist(), strict=False,
            )
        ]  # fmt: skip
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        self.log.text("samples", "\n\n".join(f"    {line}" for line in lines), iteration)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)

    def rewind(self, iteration: int) -> None:
        """Drop what a stopped run wrote from an iteration on, which runs again."""
        if self.path and self.path.exists():
            kept = []
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                if (
                    line.endswith("}") and json.loads(line)["iteration"] < iteration
                ):  # a kill may cut the last one
                    kept.append(line + "\n")
            self.path.write_text("".join(kept), encoding="utf-8")
