"""What a process of sharded PPO holds at most, beside what it held before any model: one JSON line of the largest.

torchrun --nproc-per-node 4 -m benchmarks.sharding_memory [--width 512]
"""

import argparse
import json

import torch
from transformers import GPT2Config

from rlhf.machine import processes
from rlhf.machine.memory import peak_mib, reset_peak
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.tokenizer import train_tokenizer
from stages.ppo import PPOConfig, PPOTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    processes.join_process_group()
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["The red kite is in the park. Tom has a blue boat."] * 5, 300)
    config = GPT2Config(
        vocab_size=300, n_embd=options.width, n_layer=options.layers, n_head=8, n_positions=64,
        bos_token_id=None, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    before = peak_mib()
    policy, reward = GPT(config), ScalarGPT(config)
    num_parameters = sum(p.numel() for p in policy.parameters())
    settings = PPOConfig(
        episodes=16, batch_size=8, minibatch_size=8, micro_batch_size=1, max_new_tokens=8, bf16="off",
        shard="on" if processes.world_size() > 1 else "off",
    )  # fmt: skip
    made = PPOTrainer(
        settings, processing_class=tokenizer, model=policy, reward_model=reward, train_dataset=["one", "Tom"], say=lambda line: None,
    )  # fmt: skip
    del policy, reward
    start = peak_mib() - before  # all four models, whole, before they are divided
    reset_peak()
    made.train()
    held = processes.gather_rows([torch.tensor([peak_mib() - before])])
    if processes.is_main_process():
        most = max(float(x) for x in held)
        print(
            json.dumps(
                {
                    "processes": processes.world_size(),
                    "million_parameters": round(num_parameters / 1e6, 1),
                    "making_mib": round(start),
                    "training_mib": round(most),
                    "bytes_a_parameter": round(most * 2**20 / num_parameters, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
