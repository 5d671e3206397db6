"""Labels in and out: nothing lost on the way, nothing a spreadsheet would run."""

import csv

import pytest
from datasets import load_dataset, load_from_disk

from annotate.exchange import export_rows, import_rankings, pair_rows, ranking_rows
from annotate.labels import LabelStore
from annotate.simulate import simulate
from rlhf.data import Ranking, read_rankings
from rlhf.errors import InputError, LabelError
from rlhf.starter.items import take_items

RANKINGS = [
    Ranking(prompt="q1", completions=("a", "b", "c"), ranks=(0, 1, 1), labeler="ann"),
    Ranking(prompt="q1", completions=("a", "b", "c"), ranks=(2, 1, 0), labeler="bob"),
    Ranking(prompt="q2", completions=("=1+1", "b"), ranks=(1, 0), labeler="ann"),
]


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        yield store


def essence(rankings):
    return sorted((str(r.prompt), r.completions, r.ranks, r.labeler) for r in rankings)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "folder"])
def test_rankings_go_out_and_come_back(store, tmp_path, name):
    assert import_rankings(store, "batch", RANKINGS) == 2
    assert essence(store.rankings()) == essence(RANKINGS)
    export_rows(ranking_rows(store.rankings()), tmp_path / name)
    back = read_rankings(tmp_path / name)
    assert [(r.completions, r.ranks, r.labeler) for r in back] == [
        (r.completions, r.ranks, r.labeler) for r in store.rankings()
    ]


def test_pairs_are_in_trls_format(tmp_path):
    export_rows(pair_rows(RANKINGS), tmp_path / "pairs.jsonl")
    rows = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 2 + 3 + 1
    assert rows[0]["prompt"] == [{"role": "user", "content": "q1"}]
    assert (rows[0]["chosen"][0]["content"], rows[0]["rejected"][0]["content"]) == ("a", "b")


def test_cells_are_no_formulas(tmp_path):
    rows = [{"text": text} for text in ("=1+1", "+2", "-3", "@x", "plain")]
    export_rows(rows, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        assert [row["text"] for row in csv.DictReader(file)] == ["'=1+1", "'+2", "'-3", "'@x", "plain"]


def test_unranked_import_waits_for_people(store):
    import_rankings(store, "batch", RANKINGS, keep_ranks=False)
    progress = store.progress("batch")
    assert (progress.tasks, progress.answers) == (2, 0)


def test_an_existing_folder_and_an_unknown_ending_are_refused(tmp_path):
    export_rows([{"a": 1}], tmp_path / "folder")
    assert load_from_disk(str(tmp_path / "folder"))[0] == {"a": 1}
    with pytest.raises(InputError, match="exists"):
        export_rows([{"a": 1}], tmp_path / "folder")
    with pytest.raises(InputError, match="xlsx"):
        export_rows([{"a": 1}], tmp_path / "a.xlsx")


def test_simulated_labelers_finish_a_batch_like_people(store):
    from annotate.labels import NewTask

    items = take_items("train", 40, 1)
    tasks = [
        NewTask(
            prompt=item.prompt, completions=(item.answer, "I do not care about that."), ended=(True, True)
        )
        for item in items
    ]
    store.add_batch("round", tasks, overlap=3)
    given = simulate(store, "round", {item.prompt: item for item in items}, seed=2)
    assert given == 120 and store.progress("round").finished == 40
    assert all(labeler["simulated"] for labeler in store.labelers())
    assert sum(ranking.ranks[0] < ranking.ranks[1] for ranking in store.rankings()) > 100
    assert simulate(store, "round", {item.prompt: item for item in items}, seed=2) == 0


def test_simulated_labelers_refuse_what_they_cannot_judge(store):
    import_rankings(store, "batch", RANKINGS, keep_ranks=False)
    with pytest.raises(LabelError, match="let people rank"):
        simulate(store, "batch", {}, seed=1)
