"""The trainer of demonstrations: trl's, its loss faster on a CPU, and choosing an epoch by a reward where there is one."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from trl import SFTTrainer

from rlhf.data import Prompt
from rlhf.learning.head import PLAIN, token_logprobs
from rlhf.learning.losses import lm_loss
from rlhf.learning.passes import head_weight
from rlhf.learning.rewards import score_completions
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.models.trunk import trunk_states, unwrapped
from rlhf.sampling.generate import SamplingSettings, generate
from rlhf.sharding import run, whole
from stages.trainers.processes import SeveralProcesses


class DemonstrationTrainer(SeveralProcesses, SFTTrainer):
    """trl's SFTTrainer that, given `score`, also measures the policy's mean reward at every evaluation.

    On a CPU it takes the log-probabilities of a large vocabulary by `rlhf.learning.head`: a step needs a fourth of the time there.
    """

    def __init__(self, *args: Any, score: Callable[[Any], float] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score = score

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean −log π of the labelled tokens, as trl has it; of its outputs only the loss where ours is used."""
        if return_outputs or not (processes.world_size() > 1 or self._fits(inputs)):
            return SFTTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """−log π of the labelled tokens summed, and their number, both (); inputs (B, S) as trl's collator gives them."""
        labels = inputs["labels"][:, 1:]
        labelled = labels >= 0  # −100 is of tokens that the loss does not count
        if "attention_mask" in inputs and head_weight(model) is not None:
            logprobs = run(model, _labelled_logprobs, inputs, labels, labelled)
        else:  # packed rows, logits that are no product alone: as the model itself has them
            given = {name: value for name, value in inputs.items() if name != "labels"}
            logits = model(**given, use_cache=False).logits[:, :-1][labelled]
            logprobs = -lm_loss(logits, labels[labelled])
        return -logprobs.sum(), labelled.sum()

    def _fits(self, inputs: dict[str, Tensor]) -> bool:
        """Whether this batch's logits are many, on a CPU, and nothing but a product: no packed rows, no adapted head."""
        tokens = inputs["input_ids"]
        if tokens.device.type != "cpu" or "attention_mask" not in inputs:
            return False
        weight = head_weight(self.model)
        return weight is not None and tokens.numel() * len(weight) > PLAIN

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {"eval_loss": self._mean_loss()}
        self.log(metrics)
        me: Any = self
        me.control = me.callback_handler.on_evaluate(me.args, me.state, me.control, metrics)
        if self.score is not None:
            with whole(self.model) as plain:
                metrics["eval_reward"] = self.score(plain)
            self.log({"eval_reward": metrics["eval_reward"]})
        return metrics

    @torch.no_grad()
    def _mean_loss(self) -> float:
        """The mean over all labelled tokens of the evaluation rows, however they stand in batches and processes."""
        rows = self._remove_unused_columns(self.eval_dataset, description="evaluation")
        size = self.args.per_device_eval_batch_size
        starts = list(range(0, len(rows), size))[processes.rank() :: processes.world_size()]
        found, me = torch.zeros(2, dtype=torch.float64), cast(Any, self)
        me.callback_handler.eval_dataloader = starts  # which the bar counts by
        self.model.eval()
        with whole(self.model) as plain, autocast(self.args.device):
            for start in starts:
                batch = [rows[i] for i in range(start, min(start + size, len(rows)))]
                total, number = self.summed_loss(plain, self._prepare_inputs(self.data_collator(batch)))
                found += torch.tensor([float(total), float(number)])
                me.control = me.callback_handler.on_prediction_step(me.args, me.state, me.control)
        loss, num_tokens = processes.sum_over_processes(found)
        return float(loss / num_tokens)


def _labelled_logprobs(model: Any, inputs: dict[str, Tensor], labels: Tensor, labelled: Tensor) -> Tensor:
    """log π (N,) of the labelled ones of labels (B, S − 1), by a model whose logits are a product alone."""
    bare = unwrapped(model)
    states = trunk_states(bare, inputs["input_ids"], inputs["attention_mask"])[:, :-1][labelled]
    return token_logprobs(states, bare.get_output_embeddings().weight, labels[labelled])


def mean_reward(
    policy: Any,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Prompt],
    reward: tuple[Any, AnyTokenizer],
) -> float:
    """Mean reward of one sampled answer to each prompt (how Ouyang et al. 2022, section 3.5, pick the SFT model).

    An answer has at most 64 tokens, and where its prompt leaves less room in the context, that many.
    """
    was_training = policy.training
    rows = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    settings = SamplingSettings(max_new_tokens=64)
    with autocast(policy.device):
        samples = generate(policy, rows, settings, stop_ids=tokenizer.stop_ids, seed=0)
    answers = [
        (prompt, tokenizer.decode(sample.tokens)) for prompt, sample in zip(prompts, samples, strict=True)
    ]
    scores = score_completions(*reward, answers)
    policy.train(was_training)
    return sum(scores) / len(scores)
