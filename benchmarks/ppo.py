"""PPO episodes per second: stages/ppo against trl 1.12.0's PPOTrainer, in turn, on the same work.

python benchmarks/ppo.py [--sizes tiny small gpt2 | --model FOLDER] [--rounds 3]

An iteration is 64 prompts of 64 random tokens, 64 new tokens without early end, 4 PPO epochs in minibatches of 16, policy,
reference, value and reward model of one size with random weights. Of a folder's model, whose weights policy and reference
get and whose trunk the others are of, it is 32 prompts and 2 epochs, and backward passes are of 4 completions on both
sides, because with 16 trl takes more than 12 GiB; all of it learns. trl runs in an environment of its own, which this
script makes (.venv-trl112), once in float32 and once with its bf16 setting; ours chooses its format itself. An iteration of
GPT-2 takes trl minutes.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, Machine, Model, command_line, in_turn, middle, model_named, now

from rlhf.machine.memory import peak_mib

PROMPT, NEW, MINIBATCH = 64, 64, 16
TRL_PYTHON = ROOT / ".venv-trl112" / "bin" / "python"


@dataclass(frozen=True)
class Work:
    """Iterations to warm up, iterations measured, the prompts and PPO epochs of one, and completions per backward pass."""

    warm: int = 0
    iterations: int = 1
    rows: int = 64
    epochs: int = 4
    micro_batch: int = MINIBATCH


WORK = {"tiny": Work(warm=1, iterations=3), "small": Work(), "gpt2": Work()}
WORK_OF_A_FOLDER = Work(rows=32, epochs=2, micro_batch=4)


class Clock:
    """Seconds spent in named phases since the last `restart`."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self.phases.clear()
        self.started = now()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with the time it takes added to a phase."""

        def run(*args: Any, **kwargs: Any) -> Any:
            started = now()
            result = work(*args, **kwargs)
            self.phases[name] = self.phases.get(name, 0.0) + now() - started
            return result

        return run

    def result(self, episodes: int) -> dict[str, Any]:
        """Episodes per second, and the share of the time in each phase; where nobody measured the update, it is the rest."""
        total = now() - self.started
        shares = {name: round(seconds / total, 3) for name, seconds in self.phases.items()}
        shares.setdefault("update", round(1 - sum(shares.values()), 3))
        return {
            "episodes_per_s": round(episodes / total, 3),
            "shares": shares,
            "peak_mib": round(peak_mib()),
        }


def ours(size: Model, work: Work) -> dict[str, Any]:
    import iterations

    from rlhf.machine.devices import set_threads
    from rlhf.models.checkpoints import scalar_from_policy
    from stages.ppo import PPOConfig
    from stages.ppo.learner import new_learner

    set_threads(0)
    policy, reference = size.our_causal_lm(), size.our_causal_lm().eval().requires_grad_(False)
    value, scores = scalar_from_policy(policy), scalar_from_policy(policy).eval().requires_grad_(False)
    reference.load_state_dict(policy.state_dict())
    settings = PPOConfig(
        episodes=work.rows * (work.warm + work.iterations), batch_size=work.rows, minibatch_size=MINIBATCH,
        inner_epochs=work.epochs, micro_batch_size=work.micro_batch, max_new_tokens=NEW, lr=1e-6, value_lr=1e-6, save_every=0,
    )  # fmt: skip
    learner = new_learner(settings, policy, value)
    clock, done = Clock(), 0

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        measured = clock.timed(phase, function)

        def run(*args: Any, **more: Any) -> Any:
            nonlocal done
            if phase == "sample":
                if done == work.warm:
                    clock.restart()
                done += 1
            return measured(*args, **more)

        return run

    rows = torch.randint(1, size.vocab, (work.rows, PROMPT)).tolist()
    iterations.run(settings, learner, reference, scores, rows, timed)
    return clock.result(work.rows * work.iterations)


def trl(size: Model, bf16: bool, work: Work) -> dict[str, Any]:
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
    policy, reference = size.causal_lm(), size.causal_lm()
    reference.load_state_dict(policy.state_dict())
    reward, value = size.scorer(), size.scorer()
    clock = Clock()

    class Timer(transformers.TrainerCallback):
        done = 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.done += 1
            if self.done == work.warm:
                clock.restart()

    ppo_trainer.batch_generation = clock.timed("sample", ppo_trainer.batch_generation)
    ppo_trainer.get_reward = clock.timed("judge", ppo_trainer.get_reward)
    trainer_forward = ppo_trainer.forward
    ppo_trainer.forward = lambda model, *rest: (
        trainer_forward if torch.is_grad_enabled() else clock.timed("judge", trainer_forward)
    )(model, *rest)
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=tempfile.mkdtemp(), bf16=bf16, use_cpu=True, report_to="none", save_strategy="no",
            disable_tqdm=True, num_sample_generations=0, learning_rate=1e-6, response_length=NEW, stop_token=None,
            temperature=1.0, total_episodes=work.rows * (work.warm + work.iterations), per_device_train_batch_size=work.micro_batch,
            gradient_accumulation_steps=work.rows // work.micro_batch, num_mini_batches=work.rows // MINIBATCH, num_ppo_epochs=work.epochs,
            local_rollout_forward_batch_size=work.rows,
        ),
        processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": torch.randint(1, size.vocab, (work.rows, PROMPT)).tolist()}),
        eval_dataset=Dataset.from_dict({"input_ids": [[1] * PROMPT] * 8}), callbacks=[Timer()],
    )  # fmt: skip
    clock.restart()
    trainer.train()
    return clock.result(work.rows * work.iterations)


def measure(side: str, name: str) -> dict[str, Any]:
    """Result of one side; runs in the environment of that side."""
    torch.manual_seed(0)
    model, work = model_named(name), WORK.get(name, WORK_OF_A_FOLDER)
    return ours(model, work) if side == "ours" else trl(model, side == "trl/bf16", work)


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
        "| model | trl float32 | trl bf16 | ours | ours / better | MiB of the three | phases of ours | of trl |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        sides = [[side, name] for side in ("trl/float32", "trl/bf16", "ours")]
        results = in_turn(__file__, sides, arguments.rounds, "episodes_per_s", interpreter)
        single, half, own = (middle(result, "episodes_per_s") for result in results)
        memory = ", ".join(f"{middle(result, 'peak_mib'):.0f}" for result in results)
        better = results[0] if single >= half else results[1]
        shares = [
            ", ".join(f"{k} {v:.0%}" for k, v in each[0]["shares"].items()) for each in (results[2], better)
        ]
        print(
            f"| {Path(name).name} | {single:.2f} | {half:.2f} | {own:.2f} | {own / max(single, half):.2f} | {memory} | "
            f"{shares[0]} | {shares[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
