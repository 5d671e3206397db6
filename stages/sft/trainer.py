"""The trainer of demonstrations: trl's, its loss faster on a CPU, and choosing an epoch by a reward where there is one."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from trl import SFTTrainer

from rlhf.data import Prompt
from rlhf.learning.head import PLAIN, token_logprobs
from rlhf.learning.passes import head_weight
from rlhf.learning.rewards import score_completions
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.models.trunk import trunk_states, unwrapped
from rlhf.sampling.generate import SamplingSettings, generate


class DemonstrationTrainer(SFTTrainer):
    """trl's SFTTrainer that, given `score`, also measures the policy's mean reward at every evaluation.

    On a CPU it takes the log-probabilities of a large vocabulary by `rlhf.learning.head`: a step needs a fourth of the time there.
    """

    def __init__(self, *args: Any, score: Callable[[Any], float] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score = score

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean −log π of the labelled tokens, as trl has it; of its outputs only the loss where ours is used."""
        if return_outputs or not self._fits(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        bare = unwrapped(self.accelerator.unwrap_model(model))
        labels = inputs["labels"][:, 1:]
        labelled = labels >= 0  # −100 is of tokens that the loss does not count
        with autocast(labels.device):  # accelerate puts its own around forward, and this goes past forward
            states = trunk_states(bare, inputs["input_ids"], inputs["attention_mask"])[:, :-1][labelled]
            logprobs = token_logprobs(states, bare.get_output_embeddings().weight, labels[labelled])
        num_tokens = labelled.sum() if num_items_in_batch is None else num_items_in_batch
        return -logprobs.sum() / num_tokens

    def _fits(self, inputs: dict[str, Tensor]) -> bool:
        """Whether this batch's logits are many, on a CPU, and nothing but a product: no packed rows, no adapted head."""
        tokens = inputs["input_ids"]
        if tokens.device.type != "cpu" or "attention_mask" not in inputs or processes.world_size() > 1:
            return False
        weight = head_weight(self.model)
        return weight is not None and tokens.numel() * len(weight) > PLAIN

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super().evaluate(*args, **kwargs)
        if self.score is not None:
            metrics["eval_reward"] = self.score(self.accelerator.unwrap_model(self.model))
            self.log({"eval_reward": metrics["eval_reward"]})
        return metrics


def mean_reward(
    policy: Any,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Prompt],
    reward: tuple[Any, AnyTokenizer],
    max_length: int,
) -> float:
    """Mean reward of one sampled answer to each prompt (how Ouyang et al. 2022, section 3.5, pick the SFT model)."""
    was_training = policy.training
    rows = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    room = max(1, max_length - max(len(row) for row in rows))
    settings = SamplingSettings(max_new_tokens=min(64, room))
    with autocast(policy.device):
        samples = generate(
            policy, rows, settings, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id, seed=0
        )
    answers = [
        (prompt, tokenizer.decode(sample.tokens)) for prompt, sample in zip(prompts, samples, strict=True)
    ]
    scores = score_completions(*reward, answers)
    policy.train(was_training)
    return sum(scores) / len(scores)
