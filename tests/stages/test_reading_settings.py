"""How a file is read is a setting of every stage that reads one; what was read stands in the entry's manifest."""

from rlhf.store import Store
from stages import reward, sft
from stages.cli.main import main
from stages.settings import RewardSettings, SFTSettings
from tests.rows import write

ASKED = [{"ask": f"Say {n}", "told": f"I say {n}.", "note": "x"} for n in range(12)]
JUDGED = [{"ask": f"q{n}", "good": "Red.", "bad": "No.", "id": n} for n in range(12)]


def quiet(line):
    pass


def test_columns_are_mapped_and_the_account_is_in_the_manifest(base_store, tmp_path):
    rows = [*ASKED, {"ask": "Say x", "told": ["no", "text"]}]
    settings = SFTSettings(
        data=str(write(tmp_path / "d.jsonl", *rows)), map="prompt=ask,completion=told", skip_bad_rows=True,
        epochs=1.0, name="mapped",
    )  # fmt: skip
    entry = sft.run(settings, base_store, quiet)
    (account,) = entry.manifest["read"]
    assert (
        account["rows"] == 13 and account["demonstrations"] == 12 and account["columns_ignored"] == ["note"]
    )
    assert list(account["left_out"].values()) == [1] and len(account["sha256"]) == 64
    # How it was read is not what decides, the rows are.
    write(tmp_path / "d.jsonl", *[{"prompt": r["ask"], "completion": r["told"]} for r in ASKED])
    plain = SFTSettings(data=settings.data, epochs=1.0, name="mapped")
    assert sft.run(plain, base_store, quiet).ref == entry.ref

    judged = RewardSettings(
        init=entry.ref, data=str(write(tmp_path / "r.jsonl", *JUDGED)), map="prompt=ask,chosen=good,rejected=bad",
        prompts_per_batch=4, name="mapped",
    )  # fmt: skip
    found = reward.run(judged, base_store, say=quiet)
    assert found.manifest["read"][0]["rankings"] == 12
    assert found.manifest["read"][0]["columns_ignored"] == ["id"]


def test_the_command_line_maps_prompts_for_ppo_and_counts_long_ones(base_store, tmp_path):
    prompts = [{"ask": row["ask"], "answer": "x"} for row in ASKED[:4]] + [{"ask": "long " * 300}]
    source = str(write(tmp_path / "p.jsonl", *prompts))
    (tmp_path / "checks.py").write_text(
        "def has(prompts, completions, answer):\n    return [float(a in c) for a, c in zip(answer, completions)]\n"
    )
    command = [
        "ppo", "--policy", base_store.entries("base")[-1].ref, "--reward", "checks:has", "--prompts", source,
        "--map", "prompt=ask", "--store", str(base_store.root), "--episodes", "8", "--batch-size", "4",
        "--minibatch-size", "4", "--max-new-tokens", "4", "--name", "mapped",
    ]  # fmt: skip
    import os

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert main(command) == 2  # one has no room
        assert main([*command, "--skip-long"]) == 0
    finally:
        os.chdir(here)
    entry = Store(base_store.root).resolve("ppo/mapped")
    assert entry.manifest["read"][0]["prompts"] == 5
    assert entry.manifest["read"][0]["columns_ignored"] == ["answer"]
