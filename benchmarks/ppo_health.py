"""What a healthy PPO run looks like, from the histories that runs left in their checkpoints.

python benchmarks/ppo_health.py docs/images/ppo_health.svg healthy=store/ppo/0001-…/history.json exploited=…
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

PANELS = {
    "reward/score": "score",
    "kl/sequence": "KL to the SFT model, nats per completion",
    "kl/beta": "β",
    "policy/entropy": "entropy, nats per token",
    "completion/length": "completion length, tokens",
    "completion/ended": "share ended",
    "policy/clip_fraction": "clip fraction",
    "value/explained_variance": "explained variance of the values",
}


def main():
    out, runs = sys.argv[1], dict(argument.split("=", 1) for argument in sys.argv[2:])
    figure, axes = pyplot.subplots(4, 2, figsize=(9, 10), sharex=True)
    for name, path in runs.items():
        history = json.loads(Path(path).read_text())
        for axis, metric in zip(axes.flat, PANELS, strict=True):
            axis.plot([row["step"] for row in history], [row[metric] for row in history], label=name)
    for axis, title in zip(axes.flat, PANELS.values(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8, loc="center left")
    for axis in axes[-1]:
        axis.set_xlabel("iteration of 256 completions")
    figure.patch.set_facecolor("white")
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main()
