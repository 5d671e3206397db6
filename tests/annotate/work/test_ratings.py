"""Batches whose answers are rated: kept, shown again, overruled, counted, exported and read again."""

import json

import pytest

from annotate.answers.adjudicate import adjudicate, disagreement_by_task, disagreements
from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.answers.foreign import read_labels, read_to_rate
from annotate.answers.importing import import_rankings
from annotate.answers.ratings import ratings_given
from annotate.app.payloads import past_json
from annotate.figures.ratings import ratings_by_checkpoint, ratings_by_labeler
from annotate.figures.tables import tables
from annotate.labels import Asks, BatchSettings, NewTask, Submission
from annotate.store.backup import check
from annotate.work.history import history
from rlhf.data import ReadOptions
from rlhf.errors import InputError, LabelError

TASKS = [
    NewTask(prompt=f"q{i}", completions=("a", "b", "c"), checkpoints=("sft", "ppo", "ppo")) for i in range(2)
]


def rate(store, name, ratings, batch="b", **more):
    task = store.lease(name, batch)
    said = {"task_id": task.id, "client_id": f"{name}-{task.id}", "kind": "rate", "ratings": ratings} | more
    return task, store.submit(name, Submission(**said))


@pytest.fixture
def rated(store):
    """Two tasks of three answers: ann and bob rate both, cleo one."""
    store.add_batch("b", TASKS, kind="rate", overlap=3, asks=Asks(shown_order="fixed"))
    given = {
        "ann": {"q0": (7, 4, 4), "q1": (6, 2, 5)},
        "bob": {"q0": (7, 2, 5), "q1": (6, 2, 5)},
        "cleo": {"q0": (1, 7, 7)},
    }
    for name, ratings in given.items():
        for task in sorted(store.lease_many(name, 2, "b"), key=lambda task: task.prompt):
            if task.prompt in ratings:
                said = {"ratings": ratings[task.prompt], "comment": f"{name} thinks"}
                submission = Submission(
                    task_id=task.id,
                    client_id=f"{name}-{task.id}",
                    kind="rate",
                    flags=(("opinion",), (), ()),
                    **said,
                )
                store.submit(name, submission)
    return store


def test_ratings_imply_an_order_and_are_kept_with_flags_and_comment(rated):
    older = history(rated.database, "ann")[1]
    assert (older.kind, older.ratings, older.ranks) == ("rate", (7, 4, 4), (0, 1, 1))
    assert (older.flags, older.comment) == ((("opinion",), (), ()), "ann thinks")
    assert past_json(older)["said"] == "A 7 · B 4 · C 4"
    assert check(rated.database) == []
    first = next(ranking for ranking in rated.rankings("b") if ranking.labeler == "cleo")
    assert (first.completions, first.ranks, first.ratings) == (("a", "b", "c"), (1, 0, 0), (1, 7, 7))


def test_a_new_rating_supersedes_the_one_before(rated):
    past = history(rated.database, "ann")[0]
    again = Submission(task_id=past.task.id, client_id="again", kind="rate", ratings=(1, 1, 1))
    rated.submit("ann", again)
    newest = history(rated.database, "ann")[0]
    assert (newest.ratings, newest.ranks, newest.versions) == ((1, 1, 1), (0, 0, 0), 2)


@pytest.mark.parametrize(("said", "reason"), [
    ({"ratings": (5, 4)}, "2 ratings"), ({"ratings": (5, 4, None)}, "2 ratings for 3 answers"), ({}, "0 ratings"),
    ({"ratings": (5, 4, 6)}, "from 1 to 5"), ({"ratings": (0, 4, 5)}, "from 1 to 5"),
    ({"ratings": (5, 4, 3), "ranks": (0, 1, 2)}, "ranks belong to a ranking"),
    ({"verdict": "up"}, "said of one answer"), ({"verdict": "a", "ratings": (1, 2, 3)}, "verdict"),
    ({"kind": "rank", "ranks": (0, 1, 2)}, "wants rate, not rank"),
    ({"ratings": (2, 4, 5)}, "below 3 needs a comment"),
])  # fmt: skip
def test_what_is_no_rating_of_this_batch_is_refused(store, said, reason):
    store.add_batch("b", TASKS, kind="rate", asks=Asks(scale=5, comment_below=3))
    with pytest.raises(LabelError, match=reason):
        rate(store, "ann", **({"ratings": ()} | said))
    assert history(store.database, "ann") == []
    rate(store, "ann", (2, 4, 5), comment="rude")


@pytest.mark.parametrize("asks", [
    {"scale": 1}, {"scale": 11}, {"scale": 5, "comment_below": 6}, {"none_acceptable": True}, {"strength": True},
])  # fmt: skip
def test_scales_nobody_can_rate_on_are_refused(store, asks):
    with pytest.raises(LabelError, match="batch b: "):
        store.add_batch("b", TASKS, kind="rate", asks=Asks(**asks))


def test_one_answer_alone_is_rated_and_the_ratings_under_a_prompt_make_an_order(store):
    store.add_batch("b", [NewTask(prompt="q", completions=(text,)) for text in ("x", "y", "z")], kind="rate")
    given = {}
    for value in (3, 3, 6):
        task, _ = rate(store, "ann", (value,))
        given[task.completions[0]] = value
    (ranking,) = store.rankings("b")
    assert dict(zip(ranking.completions, ranking.ratings, strict=True)) == given
    assert sorted(ranking.ranks) == [0, 1, 1]


def test_where_ratings_are_apart_a_lead_decides_and_the_labeler_sees_it(rated):
    shares = disagreement_by_task(rated.database, Choice(batch="b"))
    # q0: ann–bob 0, 2, 1; ann–cleo 6, 3, 3; bob–cleo 6, 5, 2 points of 6, over 9; of q1 all are of one mind
    (worst,) = disagreements(rated.database, Choice(batch="b"), shares)
    assert worst.share == pytest.approx(28 / 9 / 6)
    assert [answer.ratings for answer in worst.answers] == [(7, 4, 4), (7, 2, 5), (1, 7, 7)]
    rated.add_labeler("lea", role="lead")
    verdict = {"task_id": worst.task.id, "client_id": "v", "kind": "rate", "comment": "cleo is right"}
    adjudicate(rated.database, "lea", Submission(**verdict, ratings=(1, 7, 7)))
    overruled = {name: history(rated.database, name)[-1].overruled for name in ("ann", "bob", "cleo")}
    assert overruled["cleo"] is None and overruled["ann"].ratings == (1, 7, 7)
    assert past_json(history(rated.database, "bob")[-1])["overruled"]["said"] == "A 1 · B 7 · C 7"
    adjudicated = Choice(batch="b", adjudicated=True)
    assert rated.snapshot(choice=adjudicated).num_annotations == 3


def test_figures_by_hand(rated):
    with rated.database.read() as connection:
        given = ratings_given(connection, Choice())
    sft, ppo = ratings_by_checkpoint(given)
    assert (ppo.checkpoint, ppo.mean, ppo.answers) == ("ppo", pytest.approx(43 / 10), 10)
    assert (sft.checkpoint, sft.mean, sft.answers) == ("sft", pytest.approx(27 / 5), 5)
    # sft: sums 15 of 3 and 12 of 2 by prompt; e = 15 − 5.4·3 = −1.2 and 1.2; reach = 12.7062·√(2·2.88) / 5
    assert sft.ci95 == (1.0, 7.0)
    ann, bob, cleo = ratings_by_labeler(given)
    # ann in q0: others' means 4, 4.5, 6 → 3, 0.5, 2; in q1 as bob
    assert (ann.labeler, ann.apart) == ("ann", pytest.approx(5.5 / 6))
    assert cleo.apart == pytest.approx((6 + 4 + 2.5) / 3) and bob.mean == pytest.approx(27 / 6)
    found = tables(rated.database, Choice())
    assert found["ratings"].rows[0][:3] == ("sft", 7, pytest.approx(5.4))
    assert found["agreement"].rows[0][5] == 6  # pairs of answers, by the order that ratings imply
    assert found["labelers"].rows[0][2] == 2


def test_a_chats_thumbs_are_no_ratings_on_a_scale(store):
    from annotate.chat.feedback import ChatAnswer, record_thumb

    record_thumb(store.database, "ann", "t1", [{"role": "user", "content": "q"}], ChatAnswer(text="x"), True)
    with store.database.read() as connection:
        assert ratings_given(connection, Choice()) == []


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_ratings_of_several_answers_go_out_and_come_back(rated, tmp_path, ending):
    file = tmp_path / f"labels.{ending}"
    assert export(rated.database, file, "rankings", Choice(batch="b")).rows == 5
    import_rankings(rated.database, BatchSettings(name="again", kind="rate"), read_to_rate(file))
    before, after = (
        sorted((r.prompt[0]["content"] if isinstance(r.prompt, list) else r.prompt, r.labeler, r.ratings) for r in rated.rankings(name))
        for name in ("b", "again")
    )  # fmt: skip
    assert before == after and len(after) == 5
    assert export(rated.database, tmp_path / f"pairs.{ending}", "pairs", Choice(batch="b")).rows > 5


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_ratings_of_one_answer_go_out_as_rows_and_come_back(rated, tmp_path, ending):
    file = tmp_path / f"ratings.{ending}"
    assert export(rated.database, file, "ratings", Choice(batch="b")).rows == 15
    made = import_rankings(rated.database, BatchSettings(name="again", kind="rate"), read_to_rate(file))
    assert (made.tasks, made.answers) == (6, 15)
    again = [past for past in history(rated.database, "cleo") if past.task.batch == "again"]
    assert sorted(past.ratings for past in again) == [(1,), (7,), (7,)]


def test_rows_of_ratings_say_the_scale_and_which_half(store, tmp_path):
    store.add_batch("b", TASKS[:1], kind="rate", asks=Asks(scale=5, shown_order="fixed"))
    rate(store, "ann", (5, 3, 1), comment="=1+1")
    export(store.database, tmp_path / "r.jsonl", "ratings", Choice())
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [(row["rating"], row["scale"], row["label"]) for row in rows] == [
        (5, 5, True),
        (3, 5, None),
        (1, 5, False),
    ]
    assert [row["checkpoint"] for row in rows] == ["sft", "ppo", "ppo"]
    export(store.database, tmp_path / "r.csv", "ratings", Choice())
    assert "'=1+1" in (tmp_path / "r.csv").read_text()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_ratings_come_back_on_their_own_scale_or_not_at_all(store, tmp_path, ending):
    store.add_batch("b", TASKS[:1], kind="rate", asks=Asks(scale=10, shown_order="fixed"))
    rate(store, "ann", (5, 3, 1), comment="so so")
    export(store.database, file := tmp_path / f"r.{ending}", "ratings", Choice())
    with pytest.raises(LabelError, match="go from 1 to 10, the batch's to 7; add --scale 10"):
        import_rankings(store.database, BatchSettings(name="c", kind="rate"), read_to_rate(file))
    settings = BatchSettings(name="c", kind="rate", asks=Asks(scale=10))
    import_rankings(store.database, settings, read_to_rate(file))
    export(store.database, tmp_path / "again.jsonl", "ratings", Choice(batch="c"))
    rows = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert sorted((row["rating"], row["scale"], row["label"]) for row in rows) == [
        (1, 10, False), (3, 10, False), (5, 10, False)
    ]  # fmt: skip
    assert {row["comment"] for row in rows} == {"so so"}


def test_ratings_beside_an_order_are_exported_as_rows_too(store, tmp_path):
    store.add_batch("b", TASKS[:1], asks=Asks(ratings=True))
    task = store.lease("ann", "b")
    said = {"task_id": task.id, "client_id": "1", "ranks": (0, 1, 2), "ratings": (6, None, 2)}
    store.submit("ann", Submission(**said))
    assert export(store.database, tmp_path / "r.jsonl", "ratings", Choice()).rows == 2


def test_rows_to_rate_are_read_as_all_others_are(tmp_path):
    path, said = tmp_path / "a.jsonl", list[str]()
    rows = [
        {"prompt": "q", "output": "OTHER", "reply": "mine", "stars": 3, "who": 7, "label": False},
        {"prompt": "q", "output": "OTHER", "reply": "", "stars": 3},
        {"prompt": "q", "output": "OTHER", "reply": "no", "stars": 2.5},
    ]
    columns = "prompt=prompt,completion=reply,rating=stars,labeler=who"
    absent = {"who": None, "label": None}
    path.write_text("".join(json.dumps(absent | row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r'a\.jsonl:3: "rating" is 2\.5, not a whole number'):
        read_to_rate(path, options=ReadOptions(columns=columns))
    found = read_to_rate(path, True, ReadOptions(columns=columns, say=said.append))
    assert [(r.completions, r.ratings, r.labeler) for r in found] == [(("mine",), (3,), "7")]
    assert found.account.left_out == {"without an answer": 1, "that cannot be read": 1}
    assert said == [found.account.line()] and "not used: label, output" in said[0]
    (first, *_) = read_to_rate(path, True, ReadOptions(columns="ignore=label"))
    assert (first.completions, first.ratings) == (("OTHER",), ())


def test_a_labeler_whose_name_no_database_keeps_is_refused_by_the_line(tmp_path):
    row = {"prompt": "q", "completion": "x", "rating": 3, "labeler": "ann\0"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"a\.jsonl:1: the text holds a NUL"):
        read_to_rate(tmp_path / "a.jsonl")


def test_any_rows_of_one_answer_wait_to_be_rated_and_rankings_without_ratings_say_so(store, tmp_path):
    (tmp_path / "answers.jsonl").write_text(
        '{"prompt": "q", "response": "x"}\n{"prompt": "q", "response": "y"}\n'
    )
    settings = BatchSettings(name="b", kind="rate")
    made = import_rankings(
        store.database, settings, read_to_rate(tmp_path / "answers.jsonl"), keep_ranks=False
    )
    assert (made.tasks, made.answers) == (2, 0) and len(store.lease("ann", "b").completions) == 1
    (tmp_path / "ranked.jsonl").write_text('{"prompt": "q", "chosen": "x", "rejected": "y"}\n')
    ranked = read_to_rate(tmp_path / "ranked.jsonl")
    with pytest.raises(LabelError, match="ranks answers without ratings; add --unranked"):
        import_rankings(store.database, BatchSettings(name="c", kind="rate"), ranked)
    (tmp_path / "scored.jsonl").write_text('{"prompt": "q", "completions": ["x", "y"], "ratings": [7, 2]}\n')
    import_rankings(
        store.database, BatchSettings(name="d", kind="rate"), read_to_rate(tmp_path / "scored.jsonl")
    )
    assert [r.ratings for r in store.rankings("d")] == [(7, 2)]
    (tmp_path / "none.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(InputError, match=r"none\.jsonl"):
        read_to_rate(tmp_path / "none.jsonl")
    assert len(read_labels(tmp_path / "ranked.jsonl")) == 1
