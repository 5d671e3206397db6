"""nanoGPT's number on its own split, by `rlhf pretrain`: nats a character on the last tenth of Tiny Shakespeare.

python -m examples.shakespeare [--data FOLDER] [--store store] [--choosing 1]

Without --data the text is the built-in one. --choosing 1 leaves the last tenth away and measures on the tenth before it:
settings are chosen there. A stopped run goes on where it was.
"""

import json
import math
from pathlib import Path

from examples import results
from examples.texts import divided, texts
from rlhf.models.checkpoints import load_policy
from rlhf.store import Store
from stages import pretrain
from stages.settings import PretrainSettings

MEASURED = "validation/bits_per_byte"
CHOSEN = {
    "vocab_size": 1024, "layers": 4, "width": 256, "heads": 4, "length": 256, "batch": 4,
    "tokens": 2_600_000, "dropout": 0.1, "lr": 3e-3, "muon_lr": 0.01, "threads": 0, "seed": 0,
}  # fmt: skip


def settings_of(given, file):
    """The settings of `rlhf pretrain` for what is asked."""
    return PretrainSettings(
        data=str(file), name="shakespeare", vocab_size=given.vocab_size, layers=given.layers, width=given.width,
        heads=given.heads, context=given.length, sequence_length=given.length, batch_size=given.batch,
        tokens=given.tokens, dropout=given.dropout, lr=given.lr, muon_lr=given.muon_lr,
        threads=given.threads, seed=given.seed,
    )  # fmt: skip


def run(given):
    """What the model reaches, how, and in which time."""
    name, text = next(iter(texts(given.data).items()))
    if given.choosing:
        text, _ = divided(text)
    store = Store(Path(given.store))
    file = store.root / f"text-{given.choosing}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    entry = pretrain.run(settings_of(given, file), store)
    history = json.loads((entry.path / "history.json").read_text())
    _, unseen = divided(text)
    nats = math.log(2) * len(unseen.encode()) / len(unseen)  # a character, for a bit a byte
    return {
        "text": name,
        "weights": load_policy(entry.path).num_parameters(),
        "nats_per_character": nats * entry.manifest["metrics"]["bits_per_byte"],
        "curve": [[row["step"] + 1, nats * row[MEASURED]] for row in history if MEASURED in row],
        **{
            name: entry.manifest["metrics"][name]
            for name in ("bits_per_byte", "best_step", "passes", "train_s")
        },
    }


if __name__ == "__main__":
    results.main("shakespeare", __doc__, run, choosing=0, store="store", **CHOSEN)
