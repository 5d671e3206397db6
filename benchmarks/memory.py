"""Memory of PPO on a Llama of 135M parameters: four whole models, the last 12 of 30 blocks, adapters of rank 16; and
each of them with gradient checkpointing.

python benchmarks/memory.py

Random weights of SmolLM2-135M's sizes; 16 completions of 32 tokens in minibatches of 8; each way in a process of its own.
"weights" are the bytes of all distinct weights of policy, reference, value and reward model; "peak" is what the process
held at most over what it held before the first model, gradients, optimizer and activations included.
"""

import json
import subprocess
import sys
import time
from typing import Any

from rlhf.machine.memory import peak_mib

PROMPTS = [f"Tell me something about the number {n} and why it is what it is." for n in range(32)]
CHECKPOINTED = ", checkpointed"
WAYS = [way + how for how in ("", CHECKPOINTED) for way in ("whole", "last blocks", "adapters")]


def llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**sizes))


def measure(way: str) -> dict[str, float]:
    """One iteration of PPO, the models' weights in MiB, the peak in MiB, and seconds."""
    from rlhf.machine.devices import set_threads
    from rlhf.models.adapters import lora, scalar_model_over, with_adapters
    from rlhf.models.checkpoints import scalar_from_policy
    from rlhf.models.tokenizer import train_tokenizer
    from stages.ppo.trainer import PPOConfig, PPOTrainer

    set_threads(0)
    before, policy = peak_mib(), llama()
    adapted = way.startswith("adapters")
    reward = with_adapters(scalar_model_over(policy), 16, "score") if adapted else scalar_from_policy(policy)
    trainer = PPOTrainer(
        PPOConfig(
            episodes=16, batch_size=16, minibatch_size=8, micro_batch_size=8, max_new_tokens=32,
            last_blocks=12 if way.startswith("last blocks") else 0, gradient_checkpointing=way.endswith(CHECKPOINTED),
        ),
        processing_class=train_tokenizer(PROMPTS, 300), model=policy, reward_model=reward, train_dataset=PROMPTS,
        peft_config=lora(16) if adapted else None, say=lambda line: None,
    )  # fmt: skip
    models = [m for m in (trainer.model, trainer.reference, trainer.value_model, reward) if m is not None]
    weights = {p.data_ptr(): p.numel() * p.element_size() for model in models for p in model.parameters()}
    started = time.perf_counter()
    trainer.train()
    return {
        "weights": sum(weights.values()) / 2**20,
        "peak": peak_mib() - before,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
        return
    print(
        "| what learns | weights of the four, MiB | of whole | peak, MiB | of whole | iteration, s |\n|---|---|---|---|---|---|"
    )
    whole: dict[str, float] = {}
    for way in WAYS:
        done = subprocess.run(
            [sys.executable, __file__, way], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        whole = whole or found
        shares = {name: found[name] / whole[name] for name in ("weights", "peak")}
        print(
            f"| {way} | {found['weights']:,.0f} | {shares['weights']:.0%} | {found['peak']:,.0f} | {shares['peak']:.0%} "
            f"| {found['seconds']:.1f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
