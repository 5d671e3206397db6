"""Every way of saving memory runs in its own process, and the page says so of one that cannot."""

import argparse

from examples import small_machine, small_machine_page


def test_ways_of_training_and_answering_run_and_are_measured(monkeypatch):
    monkeypatch.setattr(
        small_machine, "TRAINING", {"LoRA, blocks again, micro-batches": (0, 8, True, 4, False)}
    )
    monkeypatch.setattr(small_machine, "ANSWERING", ("blocks from the disk",))
    given = argparse.Namespace(layers=2, width=64, vocabulary=300, batch=4, length=8, new=3)
    found = small_machine.run(given)
    (trained,), (streamed,) = found["training"], found["answering"]
    assert trained["peak_mib"] > 50 and trained["seconds"] > 0, trained
    assert streamed["peak_mib"] > 50 and streamed["seconds"] > 0, streamed
    rows = small_machine_page.way_rows([streamed, {"way": "x", "failed": "a|b"}])
    assert rows[1] == ["x", "–", "a\\|b"]
    assert set(small_machine_page.memory(found["answering"])) == {"blocks from the disk"}
