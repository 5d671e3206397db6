"""Rows that say something only together: rated answers, and trees with one message a row."""

import pytest

from rlhf.data import ReadOptions, read_demonstrations, read_prompt_rows, read_prompts, read_rankings
from rlhf.errors import InputError
from tests.rows import write


def rated(completion, rating, prompt="q", **more):
    return {"prompt": prompt, "completion": completion, "rating": rating, **more}


def compared(rows):
    return sorted((row.labeler, row.completions, row.ranks) for row in rows)


def test_what_people_rejected_is_compared_but_not_learned(tmp_path):
    path = write(tmp_path / "a.jsonl", rated("good", 5, label=True), rated("mid", 4, label=True),
                 rated("bad", 1, label=False))  # fmt: skip
    assert compared(read_rankings(path)) == [("", ("good", "mid", "bad"), (0, 1, 2))]
    found = read_demonstrations(path)
    assert [row.completion for row in found] == ["good"]
    assert found.account.left_out == {"that people rejected": 1, "rated below others": 1}


def test_ratings_are_compared_within_what_one_labeler_gave(tmp_path):
    path = write(tmp_path / "a.jsonl", *(rated(text, score, labeler=who) for who, text, score in
                 [("ann", "x", 5), ("ann", "y", 3), ("bob", "x", 2), ("bob", "y", 4)]))  # fmt: skip
    assert compared(read_rankings(path)) == [("ann", ("x", "y"), (0, 1)), ("bob", ("x", "y"), (1, 0))]


def test_ratings_of_two_scales_or_columns_are_never_compared(tmp_path):
    five, ten = rated("x", 5, scale=5), rated("y", 6, scale=10)
    path = write(tmp_path / "a.jsonl", five, rated("z", 4, scale=5), ten)
    rows = read_rankings(path)
    assert compared(rows) == [("", ("x", "z"), (0, 1))]
    assert rows.account.left_out == {"with no other answer to compare": 1}
    assert [row.completion for row in read_demonstrations(path)] == ["x", "y"]
    other = {"prompt": "q", "completion": "y", "score": 90}
    with pytest.raises(InputError, match="2 with no other answer to compare"):
        read_rankings(write(path, five, other))


def test_a_prompt_of_text_is_that_of_one_message(tmp_path):
    message = [{"role": "user", "content": "q"}]
    rows = read_rankings(write(tmp_path / "a.jsonl", rated("x", 5), rated("y", 3, prompt=message)))
    assert compared(rows) == [("", ("x", "y"), (0, 1))]


@pytest.mark.parametrize(
    "rating, reason",
    [
        (None, "without a rating beside rated answers"),
        ("", "without a rating beside rated answers"),
        (float("nan"), "without a rating beside rated answers"),
        ("n/a", "whose rating is no number"),
    ],
)
def test_an_answer_without_a_rating_is_not_learned_beside_rated_ones(tmp_path, rating, reason):
    path = write(tmp_path / "a.jsonl", rated("c", rating), rated("a", 1), rated("b", 5))
    found = read_demonstrations(path)
    assert [row.completion for row in found] == ["b"]
    assert found.account.left_out == {"rated below others": 1, reason: 1}


def test_an_unrated_set_in_the_columns_of_a_rated_one_is_read_as_it_is(tmp_path):
    path = write(tmp_path / "a.jsonl", rated("b", 5), rated("a", None, prompt="other"))
    assert [row.completion for row in read_demonstrations(path)] == ["b", "a"]
    found = read_demonstrations(write(path, rated("b", "high"), rated("a", "low")))
    assert [row.completion for row in found] == ["b", "a"]
    assert found.account.read_as == {"prompts with answers": 2}


def test_rated_answers_are_compared_across_files(tmp_path):
    one, two = write(tmp_path / "a.jsonl", rated("x", 5)), write(tmp_path / "b.jsonl", rated("y", 3))
    assert compared(read_rankings(f"{one},{two}")) == [("", ("x", "y"), (0, 1))]
    assert [row.completion for row in read_demonstrations(f"{one},{two}")] == ["x"]


def test_the_weight_of_a_file_is_that_of_the_rated_answers_in_it(tmp_path):
    one = write(tmp_path / "a.jsonl", rated("x", 5, prompt="p"), rated("y", 5))
    two = write(tmp_path / "b.jsonl", {"prompt": "r", "completion": "z"}, rated("w", 3))
    found = read_demonstrations(f"{one}=2,{two}")
    assert sorted(row.completion for row in found) == ["x", "x", "y", "y", "z"]


def rated_talk(completion, rating, prompt="q", **more):
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return {"messages": turns, "score": rating, **more}


def test_rated_conversations_are_read_as_rated_answers_are(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        rated_talk("good", 5),
        rated_talk("bad", 1),
        rated_talk("sole", 2, prompt="other"),
    )
    found = read_demonstrations(path)
    assert [row.completion for row in found] == ["good", "sole"]
    assert found.account.left_out == {"rated below others": 1}
    assert compared(read_rankings(path)) == [("", ("good", "bad"), (0, 1))]
    assert [row[-1]["content"] for row in read_prompts(path)] == ["q", "q", "other"]
    found = read_demonstrations(write(path, rated_talk("good", 5), rated_talk("unrated", None)))
    assert [row.completion for row in found] == ["good"]
    assert found.account.left_out == {"without a rating beside rated answers": 1}


# Trees with one message a row


def said(name, parent, text, role="assistant", **more):
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, **more}


def asked(name, parent, text, **more):
    return said(name, parent, text, "prompter", **more)


THREAD = (asked("a", None, "I have a cat."), said("b", "a", "Nice!", rank=0), asked("c", "b", "What is its name?"),
          said("d", "c", "Tom", rank=0))  # fmt: skip


def test_a_thread_goes_on_in_another_file(tmp_path):
    one, two = write(tmp_path / "a.jsonl", *THREAD[2:]), write(tmp_path / "b.jsonl", *THREAD[:2])
    found = {row.completion: row for row in read_demonstrations(f"{one},{two}")}
    assert [turn["content"] for turn in found["Tom"].prompt] == [
        "I have a cat.",
        "Nice!",
        "What is its name?",
    ]
    assert list(found) == ["Nice!", "Tom"]


def test_messages_that_stand_in_no_tree_are_left_out_and_counted(tmp_path):
    rows = [*THREAD, asked("e", "x", "Lost."), said("f", "e", "Lost, too."), THREAD[1], asked("g", "h", "Round."),
            said("h", "g", "And round."), asked("i", None, "Gone.", deleted=True), said("j", "i", "Gone, too.")]  # fmt: skip
    found = read_demonstrations(write(tmp_path / "a.jsonl", *rows))
    assert [row.completion for row in found] == ["Nice!", "Tom"]
    assert found.account.left_out == {
        "that answer a message that is not there": 1,
        "that were removed, or stand below no first message": 5,
        "that stand there twice": 1,
    }
    assert found.account.first["that answer a message that is not there"].endswith("a.jsonl:5")


def test_another_message_of_the_same_id_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", *THREAD, asked("a", None, "I have a dog."))
    with pytest.raises(InputError, match=r"a\.jsonl:5: the message_id is that of .*a\.jsonl:1"):
        read_demonstrations(path)


def test_all_that_a_bad_message_takes_with_it_is_counted(tmp_path):
    rows = [asked("a", None, 5), *THREAD[1:], asked("y", None, "q"), said("z", "y", "A", rank=0)]
    found = read_demonstrations(write(tmp_path / "a.jsonl", *rows), skip_bad_rows=True)
    assert [row.completion for row in found] == ["A"]
    assert found.account.left_out == {
        "that cannot be read": 1,
        "that were removed, or stand below no first message": 3,
    }


def test_messages_that_give_nothing_are_counted(tmp_path):
    rows = [*THREAD, said("e", "c", "Tim", rank=1)]
    found = read_rankings(write(tmp_path / "a.jsonl", *rows))
    assert [row.completions for row in found] == [("Tom", "Tim")]
    assert found.account.num_read == 3 and found.account.left_out == {"without rankings": 2}
    assert not read_prompts(tmp_path / "a.jsonl").account.left_out


def test_ids_are_the_same_as_numbers_of_a_table(tmp_path):
    rows = [asked(1, float("nan"), "q"), said(2, 1.0, "A", rank=0)]
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", *rows))
    assert found.completion == "A"


def test_a_prompt_of_a_tree_has_the_columns_of_its_own_row(tmp_path):
    path = write(tmp_path / "a.jsonl", *(row | {"truth": row["message_id"]} for row in THREAD))
    found = read_prompt_rows(path, options=ReadOptions())
    assert [row.columns["truth"] for row in found] == ["a", "c"]


ASKING = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "earlier"},
    {"role": "user", "content": "r"},
]


@pytest.mark.parametrize("beside", [{}, {"prompt": "r"}])
def test_the_answer_beside_a_conversation_that_ends_with_a_question_is_its_answer(tmp_path, beside):
    path = write(tmp_path / "a.jsonl", {"messages": ASKING, "response": "a"} | beside)
    rows = read_demonstrations(path)
    assert [(row.prompt, row.completion) for row in rows] == [(ASKING, "a")]
    assert "response" not in rows.account.ignored and "messages" not in rows.account.ignored
    assert [len(prompt) for prompt in read_prompts(path)] == [3]
    marked = [ASKING[0], ASKING[1] | {"weight": 0}, ASKING[2]]
    (found,) = read_demonstrations(write(path, {"messages": marked, "response": "a"} | beside))
    assert found.unlearned == (1,)


def test_rated_answers_beside_conversations_are_compared(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"messages": ASKING, "response": text, "score": score}
                 for text, score in (("x", 1), ("y", 5))))  # fmt: skip
    assert compared(read_rankings(path)) == [("", ("x", "y"), (1, 0))]
    assert [row.completion for row in read_demonstrations(path)] == ["y"]
    closed = {"messages": ASKING[:2], "response": "x", "score": 1}
    with pytest.raises(InputError, match="no rankings in it"):
        read_rankings(write(path, closed))


@pytest.mark.parametrize("better, worse", [("4,5", "1,0"), ("5/5", "1/5"), (True, False)])
def test_ratings_that_are_no_numbers_do_not_make_bad_answers_good(tmp_path, better, worse):
    path = write(tmp_path / "a.jsonl", rated("a", better), rated("b", worse))
    with pytest.raises(InputError, match=rf'a\.jsonl:1: "rating" is {better!r}, which is no number'):
        read_demonstrations(path)
    rows = read_demonstrations(path, options=ReadOptions(columns="ignore=rating"))
    assert [row.completion for row in rows] == ["a", "b"]
