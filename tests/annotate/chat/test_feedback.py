"""Chat feedback is kept like any answer, marked as from chat; conversations belong to one account."""

import json

import pytest
from datasets import load_dataset

from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.chat.conversations import (
    add_message,
    conversations,
    delete_conversation,
    messages,
    rename_conversation,
    start_conversation,
)
from annotate.chat.feedback import ChatAnswer, record_comparison, record_rewrite, record_thumb
from annotate.work.history import history, past_answer
from rlhf.errors import LabelError

PROMPT = [{"role": "user", "content": "Hello"}]
A = ChatAnswer(text="Hi.", checkpoint="ppo/0001-x", sampling={"temperature": 0.7}, ended=True)
B = ChatAnswer(text="Go away.", checkpoint="sft/0001-x", sampling={"temperature": 1.0}, ended=False)


def test_a_pick_is_a_ranking_and_a_changed_mind_supersedes_it(store):
    first = record_comparison(store.database, "ann", "c1", PROMPT, A, B, "a", context={"message": 3})
    assert record_comparison(store.database, "ann", "c1", PROMPT, A, B, "b") == first
    (ranking,) = store.rankings()
    assert (ranking.prompt, ranking.completions, ranking.ranks) == (PROMPT, ("Hi.", "Go away."), (0, 1))
    second = record_comparison(store.database, "ann", "c2", PROMPT, A, B, "both_bad", replaces=first)
    assert second != first and [ranking.ranks for ranking in store.rankings()] == [(0, 0)]
    answer = past_answer(store.database, "ann", second)
    assert (answer.verdict, answer.none_acceptable, answer.versions) == ("both_bad", True, 2)
    assert not answer.late


def test_somebody_elses_feedback_cannot_be_replaced(store):
    first = record_comparison(store.database, "ann", "c1", PROMPT, A, B, "a")
    with pytest.raises(LabelError, match="no such feedback of yours"):
        record_comparison(store.database, "bob", "c2", PROMPT, A, B, "b", replaces=first)
    with pytest.raises(LabelError, match="another labeler"):
        record_comparison(store.database, "bob", "c1", PROMPT, A, B, "b")


def test_thumbs_are_ratings_and_rewrites_are_demonstrations(store):
    record_thumb(store.database, "ann", "t1", PROMPT, B, up=False, flags=("violent",), comment="rude\x00")
    record_rewrite(store.database, "ann", "r1", PROMPT, B, "Hello to you.")
    rewrite, thumb = history(store.database, "ann")
    assert (thumb.verdict, thumb.ratings, thumb.flags) == ("down", (1,), (("violent",),))
    assert thumb.comment == "rude\ufffd"
    assert rewrite.demonstration == "Hello to you."
    assert [(row.prompt, row.completion) for row in store.demonstrations()] == [(PROMPT, "Hello to you.")]


def test_a_better_version_is_preferred_to_the_answer_it_betters(store):
    record_rewrite(store.database, "ann", "r1", PROMPT, B, "Hello to you.")
    record_rewrite(store.database, "ann", "r2", PROMPT, A, " Hi.")  # sent as it was
    (ranking,) = store.rankings()
    assert (ranking.prompt, ranking.completions, ranking.ranks) == (
        PROMPT,
        ("Hello to you.", "Go away."),
        (0, 1),
    )
    assert store.rankings(snapshot=store.snapshot().id) == [ranking]


def test_thumbs_up_and_down_of_one_person_under_one_prompt_are_a_preference(store):
    other, c = [{"role": "user", "content": "Bye"}], ChatAnswer(text="Hello!", checkpoint="ppo/0001-x")
    record_thumb(store.database, "ann", "t1", PROMPT, A, up=True)
    record_thumb(store.database, "bob", "t2", PROMPT, B, up=False)
    record_thumb(store.database, "ann", "t3", other, B, up=False)
    assert store.rankings() == []  # nobody gave both kinds under one prompt
    down = record_thumb(store.database, "ann", "t4", PROMPT, B, up=False)
    record_thumb(store.database, "ann", "t5", PROMPT, c, up=True)
    (ranking,) = store.rankings()
    assert (ranking.prompt, ranking.labeler) == (PROMPT, "ann")
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == {
        "Hi.": 0,
        "Go away.": 1,
        "Hello!": 0,
    }
    record_thumb(store.database, "ann", "t6", PROMPT, B, up=True, replaces=down)
    assert store.rankings() == []  # a changed mind


def test_thumbs_are_exported_with_checkpoint_and_sampling(store, tmp_path):
    record_thumb(store.database, "ann", "t1", PROMPT, A, up=True)
    record_thumb(store.database, "ann", "t2", PROMPT, B, up=False, flags=("violent",))
    assert export(store.database, tmp_path / "thumbs.parquet", "ratings", Choice()).rows == 2
    up, down = load_dataset("parquet", data_files=str(tmp_path / "thumbs.parquet"), split="train")
    assert (up["label"], down["label"], down["flags"]) == (True, False, ["violent"])
    assert (up["prompt"], up["completion"]) == (PROMPT, [{"role": "assistant", "content": "Hi."}])
    assert (up["checkpoint"], json.loads(up["sampling"]), up["source"]) == ("ppo/0001-x", A.sampling, "chat")


def test_chat_batches_are_never_handed_out(store):
    record_thumb(store.database, "ann", "t1", PROMPT, B, up=True)
    assert store.lease("bob", "chat ratings") is None
    assert store.progress("chat ratings").finished == 1


def test_conversations_branch_are_found_and_are_deleted(store):
    db = store.database
    talk = start_conversation(db, "ann", {"policy": "ppo"}, "Greetings")
    question = add_message(db, "ann", talk, client_id="m1", role="user", content="Wie geht es 50%?")
    for number, text in enumerate(("Gut.", "Schlecht.")):
        add_message(
            db, "ann", talk, client_id=f"a{number}", role="assistant", content=text, parent=question,
            checkpoint="ppo/0001-x", sampling={"temperature": 1.0}, ended=True,
        )  # fmt: skip
    assert add_message(db, "ann", talk, client_id="m1", role="user", content="again") == question
    assert [(m.parent, m.content) for m in messages(db, "ann", talk)][1:] == [
        (question, "Gut."),
        (question, "Schlecht."),
    ]
    rename_conversation(db, "ann", talk, "Small talk")
    for search, hits in (("schlecht", 1), ("SMALL", 1), ("50%", 1), ("5_%", 0), ("greetings", 0)):
        assert len(conversations(db, "ann", search)) == hits, search
    delete_conversation(db, "ann", talk)
    assert conversations(db, "ann") == []


def test_another_accounts_conversation_looks_like_none(store):
    db = store.database
    talk = start_conversation(db, "ann", {})
    reasons = set()
    for number in (talk, talk + 1000):
        for call in (
            lambda n: messages(db, "bob", n),
            lambda n: rename_conversation(db, "bob", n, "mine"),
            lambda n: delete_conversation(db, "bob", n),
            lambda n: add_message(db, "bob", n, client_id="x", role="user", content="x"),
        ):
            with pytest.raises(LabelError) as caught:
                call(number)
            reasons.add(str(caught.value).replace(str(number), "N"))
    assert reasons == {"conversation N: no such conversation"}
    assert conversations(db, "bob") == [] and len(conversations(db, "ann")) == 1
