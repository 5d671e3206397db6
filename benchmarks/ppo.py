"""PPO episodes per second: stages/ppo.py against trl 1.12.0's PPOTrainer, in turn, on the same work.

python benchmarks/ppo.py [--sizes tiny small gpt2] [--rounds 3]

An iteration is 64 prompts of 64 random tokens, 64 new tokens without early end, 4 PPO epochs in minibatches of 16, policy,
reference, value and reward model of one size with random weights. trl runs in an environment of its own, which this
script makes (.venv-trl112), once in float32 and once with its bf16 setting; ours chooses its format itself. An
iteration of GPT-2 takes trl minutes.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import ROOT, SIZES, Machine, Size, command_line, gpt2_config, in_turn, middle, peak_mib

ROWS, PROMPT, NEW, EPOCHS, MINIBATCH = 64, 64, 64, 4, 16
ITERATIONS = {"tiny": (1, 3), "small": (0, 1), "gpt2": (0, 1)}  # to warm up, and measured
TRL_PYTHON = ROOT / ".venv-trl112" / "bin" / "python"


class Clock:
    """Seconds spent in named phases since the last `restart`."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self.phases.clear()
        self.started = time.perf_counter()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with the time it takes added to a phase."""

        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = work(*args, **kwargs)
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    def result(self, iterations: int) -> dict[str, Any]:
        """Episodes per second, and the share of the time in each phase; the rest is "update"."""
        total = time.perf_counter() - self.started
        shares = {name: round(seconds / total, 3) for name, seconds in self.phases.items()}
        shares["update"] = round(1 - sum(shares.values()), 3)
        return {
            "episodes_per_s": round(ROWS * iterations / total, 3),
            "shares": shares,
            "peak_mib": round(peak_mib()),
        }


def ours(size: Size, warm: int, iterations: int) -> dict[str, Any]:
    from types import SimpleNamespace

    import stages.ppo as ppo
    from rlhf.metrics import MetricLog
    from rlhf.model import GPT, ScalarGPT
    from rlhf.rewards import Reward, RewardModel
    from rlhf.training import set_threads
    from stages.ppo_inputs import PromptRow
    from stages.ppo_state import new_learner

    set_threads(0)
    config = gpt2_config(size)
    policy, reference = GPT(config), GPT(config).eval().requires_grad_(False)
    reference.load_state_dict(policy.state_dict())
    settings = ppo.PPOConfig(
        episodes=ROWS * (warm + iterations), batch_size=ROWS, minibatch_size=MINIBATCH, inner_epochs=EPOCHS,
        max_new_tokens=NEW, lr=1e-6, value_lr=1e-6, save_every=0,
    )  # fmt: skip
    learner = new_learner(settings, policy, ScalarGPT(config))
    reward = Reward({"reward": RewardModel(ScalarGPT(config).eval().requires_grad_(False))})
    prompts = [PromptRow("", row) for row in torch.randint(1, size.vocab, (ROWS, PROMPT)).tolist()]
    tokenizer: Any = SimpleNamespace(stop_ids=frozenset(), pad_id=0)
    clock, first_sample = Clock(), ppo.sample

    def sample(config: Any, policy: Any, rows: Any, tokenizer: Any, iteration: int) -> Any:
        if iteration == warm:
            clock.restart()
        return clock.timed("sample", first_sample)(config, policy, rows, tokenizer, iteration)

    ppo.sample = sample
    ppo.gather_experience = clock.timed("score", ppo.gather_experience)
    ppo.train(settings, learner, reference, reward, prompts, tokenizer, log=MetricLog(None))
    return clock.result(iterations)


def trl(size: Size, bf16: bool, warm: int, iterations: int) -> dict[str, Any]:
    import transformers
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    words = {"<pad>": 0} | {f"w{i}": i for i in range(1, size.vocab)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<pad>")),
        pad_token="<pad>",
        eos_token="w1",
        padding_side="left",
    )
    policy, reference = (transformers.AutoModelForCausalLM.from_config(gpt2_config(size)) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    config = gpt2_config(size)
    config.num_labels = 1
    reward, value = (transformers.AutoModelForSequenceClassification.from_config(config) for _ in range(2))
    clock = Clock()

    class Timer(transformers.TrainerCallback):
        done = 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.done += 1
            if self.done == warm:
                clock.restart()

    ppo_trainer.batch_generation = clock.timed("sample", ppo_trainer.batch_generation)
    ppo_trainer.get_reward = clock.timed("score", ppo_trainer.get_reward)
    trainer_forward = ppo_trainer.forward
    ppo_trainer.forward = lambda model, *rest: (
        trainer_forward if torch.is_grad_enabled() else clock.timed("score", trainer_forward)
    )(model, *rest)
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=tempfile.mkdtemp(), bf16=bf16, use_cpu=True, report_to="none", save_strategy="no",
            disable_tqdm=True, num_sample_generations=0, learning_rate=1e-6, response_length=NEW, stop_token=None,
            temperature=1.0, total_episodes=ROWS * (warm + iterations), per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=1, num_mini_batches=ROWS // MINIBATCH, num_ppo_epochs=EPOCHS,
            local_rollout_forward_batch_size=ROWS,
        ),
        processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": torch.randint(1, size.vocab, (ROWS, PROMPT)).tolist()}),
        eval_dataset=Dataset.from_dict({"input_ids": [[1] * PROMPT] * 8}), callbacks=[Timer()],
    )  # fmt: skip
    clock.restart()
    trainer.train()
    return clock.result(iterations)


def measure(side: str, name: str) -> dict[str, Any]:
    """Result of one side; runs in the environment of that side."""
    torch.manual_seed(0)
    warm, iterations = ITERATIONS[name]
    if side == "ours":
        return ours(SIZES[name], warm, iterations)
    return trl(SIZES[name], side == "trl/bf16", warm, iterations)


def make_trl_environment() -> None:
    """Install torch 2.13.0 and trl 1.12.0 beside our own environment, once."""
    if TRL_PYTHON.exists():
        return
    print(f"making {TRL_PYTHON.parent.parent}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", TRL_PYTHON.parent.parent], check=True)
    subprocess.run([TRL_PYTHON, "-m", "pip", "install", "-q", "torch==2.13.0", "trl==1.12.0"], check=True)


def interpreter(side: list[str]) -> str:
    return sys.executable if side[0] == "ours" else str(TRL_PYTHON)


def main() -> None:
    arguments = command_line(__doc__, measure)
    make_trl_environment()
    print(f"{Machine.measured()}\n")
    print(
        "| size | trl float32 | trl bf16 | ours | ours / better | MiB of the three | phases of ours | of trl |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.sizes:
        sides = [[side, name] for side in ("trl/float32", "trl/bf16", "ours")]
        results = in_turn(__file__, sides, arguments.rounds, "episodes_per_s", interpreter)
        single, half, own = (middle(result, "episodes_per_s") for result in results)
        memory = ", ".join(f"{middle(result, 'peak_mib'):.0f}" for result in results)
        better = results[0] if single >= half else results[1]
        shares = [
            ", ".join(f"{k} {v:.0%}" for k, v in each[0]["shares"].items()) for each in (results[2], better)
        ]
        print(
            f"| {name} | {single:.2f} | {half:.2f} | {own:.2f} | {own / max(single, half):.2f} | {memory} | "
            f"{shares[0]} | {shares[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
