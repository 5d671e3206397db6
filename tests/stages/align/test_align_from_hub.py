"""A recipe that names public sets, from a server of the hub's protocol: no folder of data, and the commit in every manifest."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.store import Store
from tests.hub_server import SHA, serve
from tests.rows import write

ROOT = Path(__file__).parents[3]
WORDS = ["the", "red", "kite", "is", "in", "park", "Tom", "has", "a", "blue", "boat", "dog", "barks", "hello"]
CONFIGS = "---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files: wiki.jsonl\n---\n"
TRAINED = ("sft", "reward", "gold", "ppo")
JUDGED = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: human, path: data/human-0.jsonl}\n---\n"


@pytest.fixture
def hub(tmp_path):
    """The sets that recipes/smollm2-smoke.toml names, each in its own shape."""
    source = random.Random(0)
    say = lambda n: " ".join(source.choice(WORDS) for _ in range(n))  # noqa: E731
    turn = lambda role, text: {"role": role, "content": text}  # noqa: E731
    sets = tmp_path / "hub/datasets"
    write(
        sets / "databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl",
        *[{"instruction": f"d{i} {say(3)}", "context": "", "response": say(4), "category": "open_qa"} for i in range(60)],
    )  # fmt: skip
    asked = [f"n{i} {say(3)}" for i in range(60)]
    robots = [
        {"prompt": text, "messages": [turn("user", text), turn("assistant", say(4))], "category": "Chat"}
        for text in asked
    ]
    write(sets / "HuggingFaceH4/no_robots/data/train.jsonl", *robots)
    write(sets / "HuggingFaceH4/no_robots/data/test.jsonl", *robots[:8])
    hh = lambda i: f"\n\nHuman: h{i} {say(3)}\n\nAssistant: "  # noqa: E731
    pairs = [(hh(i), say(4), say(3)) for i in range(90)]
    write(
        sets / "Anthropic/hh-rlhf/helpful-base/train.jsonl",
        *[{"chosen": asked + good, "rejected": asked + bad} for asked, good, bad in pairs],
    )
    write(
        sets / "nvidia/HelpSteer2/train.jsonl",
        *[
            {"prompt": f"s{i // 2} say", "response": say(4), "helpfulness": i % 2 * 3, "correctness": 3, "coherence": 4,
             "complexity": 1, "verbosity": 1}
            for i in range(120)
        ],
    )  # fmt: skip
    judged = [
        {"question_id": i, "model_a": "a", "model_b": "b", "winner": "model_a", "judge": "x", "turn": 1,
         "conversation_a": [turn("user", f"m{i}"), turn("assistant", say(4))],
         "conversation_b": [turn("user", f"m{i}"), turn("assistant", say(3))]}
        for i in range(60)
    ]  # fmt: skip
    write(sets / "lmsys/mt_bench_human_judgments/data/human-0.jsonl", *judged)
    (sets / "lmsys/mt_bench_human_judgments/README.md").write_text(JUDGED)
    write(sets / "Salesforce/wikitext/wiki.jsonl", *[{"text": say(30)} for _ in range(80)])
    (sets / "Salesforce/wikitext/README.md").write_text(CONFIGS)
    with serve(tmp_path / "hub") as url:
        yield url


@pytest.mark.parametrize("foreign_model", ["llama"], indirect=True)
def test_the_smoke_recipe_runs_from_names_alone(hub, foreign_model, tmp_path):
    recipe = tmp_path / "smoke.toml"  # two blocks are all that this model has
    recipe.write_text('extends = "smollm2-smoke"\n' + "".join(f"[{t}]\nlast_blocks = 1\n" for t in TRAINED))
    command = [
        sys.executable, "-m", "stages.cli", "align", "--recipe", str(recipe), "--base", str(foreign_model),
        "--store", str(tmp_path / "store"), "--json",
    ]  # fmt: skip
    environment = os.environ | {
        "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Anthropic/hh-rlhf/helpful-base: read 90 rows as" in done.stderr
    store = Store(tmp_path / "store")
    for stage in ("sft", "reward", "ppo"):
        for entry in store.entries(stage):
            revisions = {
                name: sha for account in entry.manifest["read"] for name, sha in account["revisions"].items()
            }
            assert revisions["databricks/databricks-dolly-15k"] == SHA
            assert set(revisions.values()) == {SHA} and len(revisions) == 6  # all sets that were divided
