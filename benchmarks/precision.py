"""What fewer bits cost a checkpoint: KL to float32 and perplexity on a held-out text, by precision.

python benchmarks/precision.py FOLDER TEXT.txt [--tokens 2000]

Each of the text's windows of up to 256 tokens goes through the decoder that chat and serve use, token by token.
"""

import argparse
import math
from pathlib import Path

import torch

from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from rlhf.sampling.decoder import decoder_for
from rlhf.serving.precision import cast

WINDOW = 256


@torch.inference_mode()
def logprobs(folder: str, windows: list[list[int]], precision: str) -> torch.Tensor:
    """(T, V), of what may follow each token but the last of every window."""
    model, packed = cast(load_policy(folder).eval(), precision)
    decoder = decoder_for(model, len(windows), packed)
    slots, rows = list(range(len(windows))), []
    for place in range(WINDOW - 1):
        rows.append(decoder.step(slots, torch.tensor([window[place] for window in windows])).log_softmax(-1))
    return torch.stack(rows, 1).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=2000)
    options = parser.parse_args()
    tokens = load_tokenizer(options.folder).encode(options.text.read_text())[: options.tokens]
    windows = [tokens[first : first + WINDOW] for first in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    said = torch.tensor([window[1:] for window in windows]).flatten()[:, None]
    exact = logprobs(options.folder, windows, "float32")
    for precision in ("float32", "bfloat16", "int8"):
        found = logprobs(options.folder, windows, precision)
        kl = (exact.exp() * (exact - found)).sum(-1)
        agree = (exact.argmax(-1) == found.argmax(-1)).float().mean()
        perplexity = math.exp(-found.gather(1, said).mean())
        print(
            f"{precision:9} perplexity {perplexity:9.3f}   KL to float32 {kl.mean():.5f} nats a token   "
            f"same best token {100 * agree:.1f} %   ({len(said)} tokens)"
        )


if __name__ == "__main__":
    main()
