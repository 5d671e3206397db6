"""Sampling for people: two policies against each other, and answers made while people label."""

import threading

import pytest
from sqlalchemy import text

from annotate.assign import why_nothing
from annotate.choice import Choice
from annotate.labels import LabelStore, Submission
from annotate.strengths import strengths
from rlhf.errors import InputError
from stages import sample
from stages.settings import SampleSettings

SMALL = {"policy": "base", "num_prompts": 6, "max_new_tokens": 6}


def quiet(line):
    pass


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "labels.db")


@pytest.fixture
def other(base_store):
    """The same model under another name: a folder."""
    return str(base_store.resolve("base").path)


def test_two_policies_are_compared_blindly(base_store, other, url):
    settings = SampleSettings(**SMALL, k=2, against=other, batch="blind", temperature=1.5)
    sample.run(settings, base_store, url, quiet)
    with LabelStore(url) as labels:
        labels.add_labeler("ann")
        sides = set()
        for verdict in ("a", "b", "tie", "both_bad"):
            task = labels.lease("ann", "blind")
            assert task.kind == "compare" and len(task.completions) == 2
            sides.add(task.shown_order)
            labels.submit(
                "ann", Submission(task_id=task.id, client_id=verdict, kind="compare", verdict=verdict)
            )
        table = strengths(labels.database, Choice())
        assert {row.checkpoint for row in table.rows} == {base_store.resolve("base").ref, other}
        assert table.comparisons == 4 and len(sides) == 2


def test_more_answers_of_two_policies_are_ranked_together(base_store, other, url):
    sample.run(
        SampleSettings(**SMALL, k=4, against=other, batch="mixed", temperature=1.5), base_store, url, quiet
    )
    with LabelStore(url) as labels, labels.database.read() as connection:
        counts = connection.execute(
            text("SELECT checkpoint, count(*) FROM completion GROUP BY checkpoint")
        ).all()
        assert labels.progress("mixed").kind == "rank" and len(counts) == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"against": "base", "k": 3}, "even"),
        ({"against": "base", "k": 2, "simulate": True}, "do not compare"),
        ({"live": True, "simulate": True}, "for people"),
    ],
)
def test_what_cannot_be_done_is_refused(base_store, url, more, reason):
    with pytest.raises(InputError, match=reason):
        sample.run(SampleSettings(**SMALL | more), base_store, url, quiet)


def test_a_live_batch_is_answered_while_people_label(base_store, url):
    with LabelStore(url) as labels:
        labels.add_labeler("ann")
        settings = SampleSettings(**SMALL, k=2, live=True, batch="live", temperature=1.5)
        sampler = threading.Thread(target=sample.run, args=(settings, base_store, url, quiet))
        sampler.start()
        answered = 0
        while sampler.is_alive() or why_nothing(labels.database, "ann", "live") == "":
            task = labels.lease("ann", "live") if "live" in labels.batches() else None
            if task is not None:
                labels.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))
                answered += 1
            sampler.join(0.05)
        assert 3 <= answered <= 6 and labels.progress("live").finished == answered
