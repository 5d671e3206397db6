"""Published rankings come in, people label further, and what goes out trains reward models: ours and trl's, unchanged."""

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from transformers import GPT2Config
from trl import RewardConfig, RewardTrainer

from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.answers.foreign import read_labels
from annotate.answers.importing import import_rankings
from annotate.labels import LabelStore, Submission
from annotate.store.backup import check
from annotate.work.batches import BatchSettings
from rlhf.models.gpt import ScalarGPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from stages import pretrain, reward
from stages.settings import PretrainSettings, RewardSettings

OASST = Path(__file__).parents[3] / "shared/data/oasst_en_kwise.jsonl"
WORDS = ("The dog barks at the red kite.", "Tom has a blue boat and a small cat.", "It rains.")


def published(tmp_path):
    """Rankings as OpenAssistant published them; a few of our own in the same format where those are not at hand."""
    if OASST.exists():
        return read_labels(OASST)[:60]
    rows = [
        {"messages": [{"role": "prompter", "text": f"Question {i}?"}],
         "replies": [{"text": f"{text} {i}", "rank": (i + place) % 3} for place, text in enumerate(WORDS)]}
        for i in range(60)
    ]  # fmt: skip
    (tmp_path / "oasst.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_labels(tmp_path / "oasst.jsonl")


@pytest.fixture
def store(tmp_path):
    """A store in SQLite; that PostgreSQL gives the same rows is tested elsewhere."""
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_labeler("ann")
        yield store


def test_published_rankings_are_labeled_further_exported_and_trained_on(store, tmp_path):
    given = import_rankings(
        store.database, BatchSettings(name="oasst", origin="import", overlap=2), published(tmp_path)
    )
    assert given.answers == 60
    for _ in range(40):
        task = store.lease("ann", "oasst")
        lengths = sorted({len(text) for text in task.completions}, reverse=True)
        ranks = tuple(lengths.index(len(text)) for text in task.completions)
        store.submit("ann", Submission(task_id=task.id, client_id=f"ann-{task.id}", ranks=ranks))
    assert check(store.database) == []
    rankings = export(store.database, tmp_path / "rankings.parquet", "rankings", Choice())
    pairs = export(store.database, tmp_path / "pairs.jsonl", "pairs", Choice())
    assert rankings.rows == 100 and rankings.snapshot == pairs.snapshot

    checkpoints = Store(tmp_path / "store")
    small = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 400, "tokens": 4_000, "threads": 1}
    pretrain.run(PretrainSettings(**small, name="tiny"), checkpoints, say=lambda line: None)
    for source in ({"labels": rankings.snapshot}, {"data": str(tmp_path / "rankings.parquet")}):
        settings = RewardSettings(init="base", prompts_per_batch=16, max_length=64, **source)
        entry = reward.run(settings, checkpoints, tmp_path / "labels.db", say=lambda line: None)
        assert entry.manifest["metrics"]["pairs"] > 0
        assert (rankings.snapshot in str(entry.manifest)) == ("labels" in source)


def test_exported_pairs_train_in_trl_unchanged(store, tmp_path):
    import_rankings(store.database, BatchSettings(name="oasst", origin="import"), published(tmp_path)[:12])
    written = export(store.database, tmp_path / "pairs.parquet", "pairs", Choice())
    rows = load_dataset(
        "parquet",
        data_files=str(tmp_path / "pairs.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert len(rows) == written.rows
    tokenizer = train_tokenizer([str(row["chosen"]) for row in rows], 400)
    shape = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=512, n_embd=32, n_layer=1, n_head=2, num_labels=1,
        pad_token_id=tokenizer.pad_id, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=ScalarGPT(shape), train_dataset=rows, processing_class=tokenizer.fast(),
        args=RewardConfig(
            output_dir=str(tmp_path / "trl"), max_steps=3, per_device_train_batch_size=2, max_length=512, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", logging_steps=1, save_strategy="no",
            disable_tqdm=True,
        ),
    )  # fmt: skip
    assert trainer.train().training_loss == pytest.approx(0.69, abs=0.3)  # log 2 at the start
