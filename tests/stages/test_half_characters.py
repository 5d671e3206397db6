"""Half a surrogate pair, as texts have it that were cut within an emoji: read, learned from, written and shown as U+FFFD or an escape."""

import json

from rlhf.data import read_demonstrations
from rlhf.store import Store
from stages import sft
from stages.cli.main import main
from stages.settings import SFTSettings

ROWS = [
    {"prompt": f"Question {i}? \ud83d", "completion": "Blue. \udc00", "half \ud800": 1} for i in range(20)
]


def written(folder):
    file = folder / "half.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def test_a_model_that_learned_from_it_is_stored(base_store, tmp_path):
    store = Store(base_store.root)
    entry = sft.run(SFTSettings(data=written(tmp_path), name="half", batch_size=10), store, lambda line: None)
    assert not store.verify(entry.ref)
    assert len(read_demonstrations(written(tmp_path))) == entry.manifest["metrics"]["demonstrations"] + 2


def test_it_is_shown(tmp_path, capfdbinary):
    for more in ([], ["--json"]):
        assert main(["data", "show", written(tmp_path), *more]) == 0
        assert b"Question 0?" in capfdbinary.readouterr().out
