"""Imports of any size: grouped in little memory, written in parts, whole or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.answers import importing
from annotate.answers.importing import import_prompts, import_rankings, rows_by_task
from annotate.answers.twins import twins
from annotate.labels import LabelStore
from annotate.store.backup import check
from annotate.work.batches import BatchSettings, batch_settings
from annotate.work.history import history
from rlhf.data import Ranking
from rlhf.errors import LabelError

ROWS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "ann", "bob"])), max_size=30)


def ranking(prompt, labeler=""):
    return Ranking(prompt=f"{prompt}", completions=("a", "b"), ranks=(0, 1), labeler=labeler)


@given(ROWS)
def test_rows_are_grouped_as_a_dict_would(rows):
    groups, times = {}, {}
    for number, (prompt, labeler) in enumerate(rows):
        time = times[prompt, labeler] = times.get((prompt, labeler), -1) + 1
        groups.setdefault((prompt, time), []).append(number)
    tasks, names = rows_by_task([ranking(*row) for row in rows])
    assert [tasks[number] for number in range(len(tasks))] == list(groups.values())
    assert names == {labeler or "imported" for _, labeler in rows}


@pytest.mark.parametrize("kind", ["rank", "compare", "rate"])
def test_answers_in_another_order_are_the_same_task(store, kind):
    rows = [
        Ranking(
            prompt="q", completions=texts, ranks=ranks, labeler=name, ratings=ratings, flags=flags, scores=ratings
        )
        for name, texts, ranks, ratings, flags in [
            ("ann", ("b", "a"), (0, 1), (7, 2), (("opinion",), ())),
            ("bob", ("a", "b"), (0, 1), (6, 3), (("sexual",), ())),
            ("cleo", ("a", "b"), (0, 0), (4, 4), ()),
        ]
    ]  # fmt: skip
    done = import_rankings(store.database, BatchSettings(name="b", kind=kind), rows)
    assert (done.tasks, done.answers) == (1, 3)
    given = {name: history(store.database, name)[0] for name in ("ann", "bob", "cleo")}
    assert {name: (past.task.completions, past.ranks) for name, past in given.items()} == {
        "ann": (("b", "a"), (0, 1)), "bob": (("b", "a"), (1, 0)), "cleo": (("b", "a"), (0, 0))
    }  # fmt: skip
    assert [past.ratings for past in given.values()] == [(7, 2), (3, 6), (4, 4)]
    assert [past.flags for past in given.values()] == [(("opinion",), ()), ((), ("sexual",)), ((), ())]
    assert store.snapshot().num_annotations == 3 and check(store.database) == []


def test_a_batch_of_the_same_tasks_under_another_name_is_found(store):
    rows = [Ranking(prompt=f"q{i}", completions=("a", f"b{i}"), ranks=(0, 1)) for i in range(4)]
    for name, rankings in (
        ("first", rows),
        ("again", rows[::-1]),
        ("fewer", rows[:3]),
        ("others", [Ranking(prompt=f"q{i}", completions=("a", "c"), ranks=(0, 1)) for i in range(4)]),
    ):
        import_rankings(store.database, BatchSettings(name=name, origin="import"), rankings)
    assert twins(store.database, "again") == ["first"] and twins(store.database, "first") == ["again"]
    assert twins(store.database, "fewer") == twins(store.database, "others") == []


def test_an_import_in_parts_is_the_import_at_once(tmp_path, monkeypatch):
    rows = [ranking(n % 5, name) for n, name in enumerate(["ann", "bob", "ann", "", "bob"] * 4)]
    found = []
    for at_once in (2, 1000):
        monkeypatch.setattr(importing, "AT_ONCE", at_once)
        seen = []

        def watch(parts, what, seen=seen):
            seen.append((what, len(parts)))
            return parts

        with LabelStore(tmp_path / f"{at_once}.db") as store:
            done = import_rankings(
                store.database, BatchSettings(name="b", origin="import"), rows, watch=watch
            )
            stored = store.rankings("b")
            assert batch_settings(store.database, "b").name == "b"
            found.append((done, sorted((r.prompt, r.labeler, r.ranks) for r in stored)))
            assert store.progress("b").answers == len(rows)
        assert [what for what, _ in seen] == ["rankings", "tasks", "answers"]
    assert found[0] == found[1] and len(found[0][1]) == len(rows)


@pytest.mark.parametrize("keep_ranks", [True, False])
def test_a_bad_row_of_a_late_part_undoes_all_and_is_named_by_its_place(tmp_path, monkeypatch, keep_ranks):
    monkeypatch.setattr(importing, "AT_ONCE", 2)
    rows = [ranking(n) for n in range(5)] + [Ranking(prompt="x", completions=("a",), ranks=(0,))]
    with LabelStore(tmp_path / "labels.db") as store:
        with pytest.raises(LabelError, match=r"^task 6: 1 answers"):
            import_rankings(store.database, BatchSettings(name="b"), rows, keep_ranks)
        with pytest.raises(LabelError, match="b"):
            batch_settings(store.database, "b")
        assert (
            import_prompts(store.database, BatchSettings(name="b", kind="demonstrate"), ["x", "y", "z"]).tasks
            == 3
        )
        assert store.progress("b").tasks == 3
