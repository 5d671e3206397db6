"""Rollouts drawn ahead: while one iteration trains, the completions of the next are drawn by the weights it began with.

Which weights draw which iteration does not depend on who is faster: with max_staleness = 1 iteration i is drawn by the policy that
has learned from i − 1 iterations. So a run is the same every time, and goes on bit for bit from a state, which holds what is
drawn already. With 0 each iteration is drawn when it begins.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.learning.prompts import EncodedPrompt, prompt_order
from rlhf.learning.rollout import Rollout
from rlhf.models.adapters import copy_sharing_frozen
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.rollout_server import RolloutServers
from rlhf.sampling.generate import Sample
from rlhf.sharding import whole
from stages.ppo.experience import draw, gathered_samples, push, rollout_of, sample
from stages.settings import PPOConfig


@dataclass
class Drawn:
    """An iteration's completions, on their way or there. version: iterations that the policy had learned from."""

    iteration: int
    version: int
    samples: "Future[list[Sample]] | list[Sample]"

    def of_all(self) -> list[Sample]:
        """Those of every process, once they are there; all processes come here."""
        if isinstance(self.samples, Future):
            self.samples = gathered_samples(self.samples.result())
        return self.samples


class Sampling:
    """Draws a run's rollouts, each iteration's in a fixed order of prompts."""

    def __init__(
        self,
        config: PPOConfig,
        prompts: Sequence[EncodedPrompt],
        tokenizer: AnyTokenizer,
        servers: RolloutServers | None = None,
    ) -> None:
        self.config, self.prompts, self.tokenizer, self.servers = config, prompts, tokenizer, servers
        self.ahead: Drawn | None = None
        self.worker = ThreadPoolExecutor(max_workers=1) if config.max_staleness else None

    def rollout(self, policy: Any, iteration: int) -> Rollout:
        """The completions of an iteration; afterwards those of the next are on their way where they may be stale."""
        rows, ahead = self.prompts_of(iteration), self.ahead
        if ahead is not None and ahead.iteration == iteration:
            rollout = rollout_of(rows, ahead.of_all(), self.tokenizer, iteration - ahead.version)
        else:
            rollout = sample(self.config, policy, rows, self.tokenizer, iteration, self.servers)
        if self.worker and (following := self.prompts_of(iteration + 1)):
            self.ahead = self._begun(self.worker, policy, iteration + 1, following)
        return rollout

    def prompts_of(self, iteration: int) -> list[EncodedPrompt]:
        """The prompts of an iteration, each as often as it gets completions; the last one may have fewer, later ones none."""
        config = self.config
        first, each = iteration * config.batch_size, config.completions_per_prompt
        num_episodes = max(0, min(config.batch_size, config.episodes - first))
        order = prompt_order(len(self.prompts), first // each, num_episodes // each, config.seed)
        return [self.prompts[i] for i in order for _ in range(each)]

    def _begun(
        self, worker: ThreadPoolExecutor, policy: Any, iteration: int, rows: Sequence[EncodedPrompt]
    ) -> Drawn:
        """A thread draws; what all processes must do together is done before."""
        kept = None
        if self.servers:
            push(policy, self.servers, version=iteration)
        else:
            with whole(policy) as plain:
                kept = copy_sharing_frozen(plain, [plain])
        made = worker.submit(draw, self.config, kept, rows, self.tokenizer, iteration, self.servers)
        return Drawn(iteration, iteration - 1, made)

    def wait(self) -> None:
        """Return when nothing is being drawn: servers hold one policy at a time."""
        if self.ahead is not None:
            self.ahead.of_all()

    def state_dict(self) -> dict[str, Any] | None:
        """What is drawn ahead, waited for; every process calls it."""
        if self.ahead is None:
            return None
        samples = [asdict(sample) for sample in self.ahead.of_all()]
        return {"iteration": self.ahead.iteration, "version": self.ahead.version, "samples": samples}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            samples = [Sample(**sample) for sample in state["samples"]]
            self.ahead = Drawn(state["iteration"], state["version"], samples)
