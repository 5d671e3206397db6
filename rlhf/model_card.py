"""The README.md of a store entry: what it is, what it came from and how to open it, with the hub's front matter. No torch.

It says nothing that would differ between two runs of the same inputs, such as seconds, and no folder of this machine.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.hub_names import SCHEME, looks_like_path

KINDS = {
    "base": ("A base language model", "text-generation"),
    "sft": ("A language model fine-tuned on demonstrations", "text-generation"),
    "reward": (
        "A reward model: one number for a conversation that ends with an answer",
        "text-classification",
    ),
    "ppo": ("A language model aligned by reinforcement learning from a reward", "text-generation"),
}
# Parts of an entry that stay on this machine: folders and what people wrote are nobody else's business, the rest is large.
NOT_PUBLISHED = ("manifest.json", "demonstrations.json", "samples.jsonl", "checkpoints", "state")
STARTS = ("base", "policy", "init")  # settings that name the model that a stage started from
HUB_NAME = re.compile(r"(?:hf://)?(?:datasets/)?([\w.-]+/[\w.-]+)(?:/[\w./-]+)?(?::[\w-]+)?(?:@[\w./-]+)?")
SECONDS = re.compile(r".*_s|seconds|.*_per_s")
OPEN = {
    "text-generation": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("FOLDER OR HUB NAME")\n'
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER OR HUB NAME")  # its chat template is in it',
    "text-classification": "from transformers import AutoModelForSequenceClassification\n\n"
    'model = AutoModelForSequenceClassification.from_pretrained("FOLDER OR HUB NAME")\n'
    'offset = getattr(model.config, "reward_offset", 0.0)  # reward = logit + offset, at the last token',
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown with front matter, from a manifest's stage, name, parents, settings, data, seed and metrics."""
    what, task = KINDS[manifest["stage"]]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["rlhf", manifest["stage"]],
    }
    settings, parents = manifest["settings"], manifest["parents"]
    if not parents and (
        base := _hub_name(next((settings[key] for key in STARTS if settings.get(key)), None))
    ):
        front["base_model"] = base
    if licence := settings.get("licence"):
        front["license"] = licence
    if data := sorted(filter(None, map(_hub_name, _sources(settings)))):
        front["datasets"] = data
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [
        f"# {manifest['name']}",
        "",
        f"{what}, made with rlhf (package rlhf-loop).",
        "",
    ]
    lines += _table("from", [(role, parent["ref"]) for role, parent in parents.items()])
    lines += _table("measured", [(k, v) for k, v in manifest["metrics"].items() if not SECONDS.fullmatch(k)])
    lines += _table("data, sha256", [(_last_parts(name), value) for name, value in manifest["data"].items()])
    chosen = {k: _last_parts(v) for k, v in settings.items()} | {"seed": manifest["seed"]}
    lines += _table("setting", list(chosen.items()))
    return "\n".join([*lines, "## Open it", "", "```python", OPEN[task], "```", ""])


def _sources(settings: Mapping[str, Any]) -> list[str]:
    """The names of data that the settings hold."""
    named = (settings.get(key) for key in ("data", "prompts", "ptx_data"))
    return [part.strip() for value in named if isinstance(value, str) for part in value.split(",")]


def _hub_name(name: Any) -> str | None:
    """owner/name where a name can only mean the hub, else None."""
    if not isinstance(name, str) or os.path.exists(name):
        return None
    found = HUB_NAME.fullmatch(name)
    return found[1] if found and (name.startswith(SCHEME) or not looks_like_path(name, 2)) else None


def _last_parts(value: Any) -> Any:
    """Paths, with commas between, without their folders, which are nobody else's business; anything else as it is."""
    return ",".join(map(_last_part, value.split(","))) if isinstance(value, str) else value


def _last_part(name: str) -> str:
    is_path = ("/" in name or "\\" in name) and _hub_name(name.strip()) is None
    return Path(name).name if is_path else name


def _table(head: str, rows: Sequence[tuple[str, Any]]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {head} | |",
        "|---|---|",
        *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows),
        "",
    ]


def _cell(value: Any) -> str:
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "/")
    return f"`{text}`" if text else ""
