"""What `rlhf align` adds to its judgment for the report: its steps, what they reached, and PPO's curves."""

from collections.abc import Mapping
from typing import Any

from rlhf.store import Entry
from stages.report.histories import history_curves

NOTE = (
    "The gold model that judges was trained on people's comparisons of other conversations, from other weights; no stage "
    "before this page saw it."
)
CURVES = {
    "ppo": (
        ("kl/sequence", "KL while training"),
        ("completion/length", "tokens per completion"),
        ("reward/constraint_kept", "share of constraints kept while training"),
    )
}


def steps_and_curves(results: Mapping[str, Any], models: Mapping[str, Entry]) -> dict[str, Any]:
    """The fields `note`, `steps` and `histories` of the report's results."""
    reached = {name: entry.manifest["metrics"] for name, entry in models.items()}
    outcomes = {
        "sft": f"validation loss {reached['sft']['validation_loss']}",
        "reward": f"{reached['reward']['prompts']} prompts",
        "gold": f"{reached['gold']['prompts']} prompts of its own",
        "ppo": "{episodes} episodes, reward {reward}, KL {kl} nats".format(**reached["ppo"]),
        "blind": f"batch {results['blind_batch']} waits for people",
        "judge": f"{results['prompts']} held-out prompts",
    }
    steps = {
        name: {"reached": text, "train_s": reached.get(name, {}).get("train_s")}
        for name, text in outcomes.items()
    }
    return {"note": NOTE, "steps": steps, "histories": history_curves(models, CURVES, "iteration")}
