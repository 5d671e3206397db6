"""Every format of the table gives what its rows say, or is refused; docs/data.md holds the table of this run."""

from pathlib import Path

import pytest

from rlhf.data import (
    ReadOptions,
    as_messages,
    read_demonstrations,
    read_prompt_rows,
    read_prompts,
    read_rankings,
)
from rlhf.errors import InputError
from tests.rlhf.data.shapes import ASK, BAD, GOOD, LEARN, RANK, REFUSED, SHAPES, Q, assistant, hh, user
from tests.rows import write

READERS = {RANK: read_rankings, LEARN: read_demonstrations, ASK: read_prompts}
DOCS = Path(__file__).parents[3] / "docs" / "data.md"
BEGIN, END = "<!-- formats: begin -->\n", "<!-- formats: end -->"


def seen(use, path):
    """What a reader made of one row, in the words of shapes.py; None where it refused."""
    try:
        (found,) = READERS[use](path)
    except InputError:
        return None
    if use == RANK:
        assert sorted(text.strip() for text in found.completions) == sorted((GOOD, BAD))
        return found.ranks
    return found.completion.strip() if use == LEARN else as_messages(found)[-1]["content"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_gives_what_it_says_and_nothing_else(tmp_path, name):
    row, expected = SHAPES[name]
    path = write(tmp_path / "rows.jsonl", row)
    found = {use: seen(use, path) for use in READERS}
    assert found[RANK] == expected.get(RANK)
    assert found[LEARN] == expected.get(LEARN)
    asked = expected.get(ASK)
    assert asked is False or found[ASK] == (Q if asked is True else asked)


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_can_read_right_is_refused_with_its_place(tmp_path, name):
    row, words = REFUSED[name]
    path = write(tmp_path / "rows.jsonl", row)
    for use, read in READERS.items():
        if use == ASK and name == "no prompt (trl's implicit text)":
            continue
        with pytest.raises(InputError, match=rf"rows\.jsonl:1: .*({words}|no {use})"):
            read(path)


def table():
    """The table of docs/data.md: shapes, and what each is read as."""
    lines = ["| shape | columns | read as |", "|---|---|---|"]
    for name, (row, expected) in SHAPES.items():
        uses = ", ".join(use for use in (RANK, LEARN, ASK) if expected.get(use) not in (None, False))
        lines.append(f"| {name} | {', '.join(f'`{column}`' for column in row)} | {uses} |")
    refused = "; ".join(REFUSED)
    return "\n".join([*lines, "", f"Refused by name: {refused}.", ""])


def test_the_docs_hold_the_table_of_these_shapes():
    before, rest = DOCS.read_text().split(BEGIN)
    written, after = rest.split(END)
    if written != table():
        DOCS.write_text(before + BEGIN + table() + END + after)
    assert written == table(), "docs/data.md was out of date and has been written anew; commit it"


def test_pairs_that_part_early_and_equal_answers_are_left_out_and_counted(tmp_path):
    parting = {"chosen": hh("First.") + hh(GOOD), "rejected": hh("Other.") + hh(BAD)}
    rows = read_rankings(write(tmp_path / "a.jsonl", {"chosen": hh(GOOD), "rejected": hh(BAD)}, parting,
                               {"chosen": hh(GOOD), "rejected": hh(GOOD + " ")}))  # fmt: skip
    assert len(rows) == 1
    assert rows.account.left_out == {"that part early": 1, "whose answers are equal": 1}
    assert "read 3 rows as HH; left out 1 that part early, 1 whose answers are equal" in rows.account.line()


def test_the_conversation_wins_over_a_prompt_that_is_its_first_turn(tmp_path):
    begun = [user("Hi."), assistant("Hello."), user()]
    row = {"prompt": "Hi.", "chosen": [*begun, assistant(GOOD)], "rejected": [*begun, assistant(BAD)]}
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row))
    assert found.prompt == begun


def test_system_history_and_context_columns_stand_in_the_prompt(tmp_path):
    row = {
        "system": "Be brief.",
        "history": [["Hi.", "Hello."]],
        "instruction": Q,
        "input": "In Oslo.",
        "output": GOOD,
    }
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", row))
    assert [one["content"] for one in found.prompt] == ["Be brief.", "Hi.", "Hello.", f"{Q}\n\nIn Oslo."]


@pytest.mark.parametrize(
    "instruction, more, prompt",
    [
        ("Translate a word into French.", "word", "Translate a word into French.\n\nword"),
        ("What is the next number?", "he", "What is the next number?\n\nhe"),
        ("Translate this word into French:\nword", "word", "Translate this word into French:\nword"),
        ("Translate.\nWord:  two\nlines", "two\n\nlines ", "Translate.\nWord:  two\nlines"),
        ("", "Sing.", "Sing."),
    ],
)
@pytest.mark.parametrize("column", ["input", "context"])
def test_an_input_is_left_out_only_where_its_lines_stand_in_the_instruction(
    tmp_path, instruction, more, prompt, column
):
    row = {"instruction": instruction, column: more, "output": GOOD}
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", row))
    assert found.prompt == prompt


def test_a_prompt_that_holds_a_question_only_by_its_letters_is_no_part_of_the_conversation(tmp_path):
    row = {"prompt": "Translate a word into French.", "messages": [user("word"), assistant("mot")]}
    with pytest.raises(InputError, match='"prompt" is no part of the conversation'):
        read_demonstrations(write(tmp_path / "a.jsonl", row))


def chatml(*turns):
    return "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)


@pytest.mark.parametrize(
    "text",
    [
        chatml(("user", Q), ("assistant", GOOD)),
        chatml(("human", Q), ("gpt", GOOD)) + "<|endoftext|>",
        f"<|im_start|>user\n{Q}<|im_end|><|im_start|>assistant\n{GOOD}<|im_end|></s>",
        f"### Human: {Q}### Assistant: {GOOD}</s>",
        f"<extra_id_0>System\n\n<extra_id_1>User\n{Q}\n<extra_id_1>Assistant\n{GOOD}",
    ],
)
def test_markers_of_turns_are_no_words(tmp_path, text):
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", {"text": text}))
    assert (found.prompt, found.completion) == ([user()], GOOD)


@pytest.mark.parametrize(
    "text, why",
    [
        (chatml(("user", Q), ("assistant", "<call>"), ("tool", "4"), ("assistant", GOOD)), "a turn of tool"),
        (chatml(("user", Q), ("assistant", GOOD)) + "Stray words.", r"<\|im_end\|> within"),
        (f"<|im_start|>user\n{Q}\n<|im_start|> assistant\n{GOOD}<|im_end|>", r"<\|im_start\|> within"),
        (
            f"<extra_id_1>User\n{Q}\n<extra_id_1>Assistant\n{GOOD}\n<extra_id_2>quality:4",
            "<extra_id_2> within",
        ),
        (f"<extra_id_1>User\n{Q}\n<extra_id_1>Tool\n4", "a turn of Tool"),
        (f"### Human: {Q}\n### Assistant: {GOOD}<|eot_id|><|start_header_id|>", "within a turn"),
        (f"<bos><start_of_turn>user\n{Q}<end_of_turn>", "start_of_turn"),
    ],
)
def test_a_turn_of_nobody_known_and_a_marker_that_is_left_over_are_refused(tmp_path, text, why):
    for read in (read_demonstrations, read_prompts):
        with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{why}"):
            read(write(tmp_path / "a.jsonl", {"text": text}))


def test_an_answer_ends_before_the_marker_that_its_prompts_format_ends_it_with(tmp_path):
    prompt = chatml(("user", Q)) + "<|im_start|>assistant"
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": prompt, "chosen": f"\n{GOOD}<|im_end|>\n", "rejected": f"{BAD}<|im_end|>"},
        {"prompt": prompt, "completions": [GOOD + "<|im_end|>", BAD], "ranks": [0, 1]},
    )
    assert [(row.prompt, row.completions) for row in read_rankings(path)] == [([user()], (GOOD, BAD))] * 2
    row = {"prompt": prompt, "completion": GOOD + "<|im_end|>"}
    assert [one.completion for one in read_demonstrations(write(path, row))] == [GOOD]


def test_a_column_to_be_ignored_may_stand_in_an_object(tmp_path):
    row = {"inputs": {"question": Q, "Images": ["x.png"]}, "outputs": {"answer": GOOD}}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match='"images" holds a list'):
        read_demonstrations(path)
    (found,) = read_demonstrations(path, options=ReadOptions(columns="ignore=Images"))
    assert (found.prompt, found.completion) == (Q, GOOD)


def test_what_people_rated_low_or_rejected_is_not_learned(tmp_path):
    rows = [{"prompt": Q, "response": text, "helpfulness": score, "correctness": 1, "coherence": 1}
            for text, score in ((GOOD, 4), (BAD, 0))]  # fmt: skip
    found = read_demonstrations(write(tmp_path / "a.jsonl", *rows))
    assert [one.completion for one in found] == [GOOD] and found.account.left_out == {"rated below others": 1}
    (ranking,) = read_rankings(tmp_path / "a.jsonl")
    assert (ranking.ranks, ranking.scores) == ((0, 1), (4.0, 0.0))


TOLD = {
    "plain": {"prompt": Q, "completion": GOOD},
    "messages": {"messages": [user(), assistant(GOOD)]},
    "self-instruct": {"instruction": Q, "instances": [{"input": "", "output": GOOD}]},
    "LangSmith": {"inputs": {"question": Q}, "outputs": {"answer": GOOD}},
}


@pytest.mark.parametrize("shape", TOLD)
def test_what_a_verdict_says_decides_whether_an_answer_is_learned(tmp_path, shape):
    row = TOLD[shape]
    truths = [(name, value, value in (1, "1", "yes", True, "Accepted")) for value in (0, 1, "0", "1", "no", "yes", False, True, "Accepted", "rejected")
              for name in ("is_correct", "is_safe", "accepted", "thumbs_up", "desirable")]  # fmt: skip
    more = [("label", "negative", False), ("label", True, True), ("label", None, True), ("thumbs", "up", True),
            ("weight", 0, False), ("weight", "0.0", False), ("weight", False, False), ("weight", 0.5, True)]  # fmt: skip
    for name, value, learned in [*truths, *more]:
        path = write(tmp_path / "a.jsonl", row | {name: value})
        if learned:
            assert [one.completion for one in read_demonstrations(path)] == [GOOD], (name, value)
        else:
            with pytest.raises(InputError, match=r"1 that people rejected|1 whose answers are not to be"):
                read_demonstrations(path)
    for name, value in [("label", "sports"), ("label", 0), ("label", "1"), ("is_correct", "B"), ("liked", 3), ("weight", "x")]:  # fmt: skip
        with pytest.raises(InputError, match=rf'a\.jsonl:1: "{name}" is {value!r}'.replace("'1'", "1")):
            read_demonstrations(write(tmp_path / "a.jsonl", row | {name: value}))


def test_a_message_of_weight_false_is_not_learned(tmp_path):
    turns = [user(), assistant(GOOD), user("Again."), assistant(BAD, weight=False)]
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", {"messages": turns}))
    assert found.completion == GOOD


def test_trees_of_a_table_know_false_from_true(tmp_path):
    (tmp_path / "a.csv").write_text(
        "message_id,parent_id,text,role,rank,deleted,review_result\np,,q,prompter,,False,True\n"
        "a,p,A,assistant,0,False,True\nb,p,B,assistant,1,False,\nc,p,C,assistant,2,True,\nd,p,D,assistant,3,,False\n"
    )
    (found,) = read_rankings(tmp_path / "a.csv")
    assert found.completions == ("A", "B")


SIDES = {"prompt": Q, "response_a": GOOD, "response_b": BAD}


@pytest.mark.parametrize(
    "more, ranks, margin",
    [
        ({"winner": "a", "preference_strength": 2}, (0, 1), 2.0),
        ({"winner": "a", "preference_strength": -2, "score_a": 5, "score_b": 1}, (0, 1), 2.0),
        ({"winner": "b", "preference_strength": 0, "score_a": 1, "score_b": 1}, (1, 0), 0.0),
        ({"preference_strength": 2}, (1, 0), 2.0),
        ({"winner": "tie", "rating_a": 1, "rating_b": 2}, (0, 0), None),
        ({"winner": "b", "preference_strength": -2}, "winner.*preference_strength", None),
        ({"winner": "a", "score_a": 1, "score_b": 5}, "winner.*score_a", None),
        ({"preference_strength": 2, "score_a": 5, "score_b": 1}, "preference_strength.*score_a", None),
        ({"winner": "a", "choice": "response_b"}, "winner.*choice", None),
        ({"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0, "verdict": "[[B]]"}, "winner_model_a.*verdict", None),
        ({"winner": "a", "label": "sports"}, (0, 1), None),
    ],
)  # fmt: skip
def test_a_named_verdict_decides_and_columns_that_contradict_it_are_refused(tmp_path, more, ranks, margin):
    path = write(tmp_path / "a.jsonl", SIDES | more)
    if isinstance(ranks, str):
        with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{ranks}.*opposite.*--map ignore="):
            read_rankings(path)
    else:
        (found,) = read_rankings(path)
        assert (found.ranks, found.margin) == (ranks, margin)


TEXTS = {"prompt": Q, "completions": [GOOD, BAD], "ranks": [0, 1]}
NAMED = {
    "texts": TEXTS,
    "objects": {"prompt": Q, "completions": [{"text": GOOD, "rank": 1}, {"text": BAD, "rank": 2}]},
    "replies": {"prompt": Q, "replies": [{"text": GOOD, "rank": 0}, {"text": BAD, "rank": 1}]},
    "pair": {"prompt": Q, "chosen": GOOD, "rejected": BAD},
    "lists": {"prompt": Q, "chosen": [GOOD], "rejected": [BAD]},
    "HH": {"chosen": hh(GOOD), "rejected": hh(BAD)},
    "ms-swift": {"messages": [user(), assistant(GOOD)], "rejected_response": BAD},
    "sides": SIDES | {"winner": "a"},
}


@pytest.mark.parametrize("shape", NAMED)
def test_who_gave_a_ranking_stays_with_it(tmp_path, shape):
    for given, kept in (("ann", "ann"), (7, "7"), (7.0, "7"), ("  ", ""), (None, "")):
        rows = read_rankings(write(tmp_path / "a.jsonl", NAMED[shape] | {"labeler": given}))
        assert [row.labeler for row in rows] == [kept] and "labeler" not in rows.account.ignored
    for given in (1.5, True, ["ann"]):
        with pytest.raises(InputError, match=r'a\.jsonl:1: "labeler" holds .*not a name'):
            read_rankings(write(tmp_path / "a.jsonl", NAMED[shape] | {"labeler": given}))


def test_ratings_and_flags_beside_objects_stay_with_them(tmp_path):
    more = {"ratings": [7, None], "flags": [["opinion"], []]}
    for shape in ("texts", "objects"):
        (found,) = read_rankings(write(tmp_path / "a.jsonl", NAMED[shape] | more))
        assert (found.ratings, found.flags) == ((7, None), (("opinion",), ()))


@pytest.mark.parametrize(
    "more",
    [
        {"ratings": ["x", "y"]}, {"ratings": [4.5, 3]}, {"ratings": [True, 3]}, {"ratings": 3}, {"ranks": [0, 10**23]},
        {"scores": [1]}, {"scores": ["x", 1]}, {"flags": ["harmful", ""]}, {"flags": [[1], []]},
    ],
)  # fmt: skip
def test_what_stands_beside_answers_is_checked(tmp_path, more):
    (name,) = more
    with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{name}"):
        read_rankings(write(tmp_path / "a.jsonl", TEXTS | more))


def test_no_number_is_endless_and_an_empty_cell_is_no_answer(tmp_path):
    for row in (
        {"prompt": Q, "completions": [GOOD, BAD], "scores": [float("inf"), 1]},
        NAMED["pair"] | {"margin": float("inf")},
        NAMED["pair"] | {"margin": "much"},
    ):
        with pytest.raises(InputError, match=r"a\.jsonl:1: .*number"):
            read_rankings(write(tmp_path / "a.jsonl", row))
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected,margin\nq,,b,\nq,a, ,2\nq,{GOOD},{BAD},\n")
    rows = read_rankings(tmp_path / "a.csv")
    assert [row.completions for row in rows] == [(GOOD, BAD)]
    assert rows.account.left_out == {"without an answer": 2}


def test_strengths_of_a_preference_are_kept(tmp_path):
    row = {"prompt": Q, "response_1": BAD, "response_2": GOOD, "preference_strength": 3}
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row))
    assert (found.ranks, found.margin) == ((1, 0), 3.0)


def test_columns_are_named_by_a_map_and_kept_for_rewards(tmp_path):
    path = write(tmp_path / "a.jsonl", {"ask": {"text": Q}, "truth": 4})
    with pytest.raises(InputError, match="--map"):
        read_prompts(path)
    (row,) = read_prompt_rows(path, options=ReadOptions(columns="prompt=ask.text"))
    assert (row.prompt, row.columns["truth"]) == (Q, 4)


def test_sides_of_an_export_are_asked_for_and_never_guessed(tmp_path):
    label = {"type": "pairwise", "to_name": "one,two", "value": {"selected": "left"}}
    row = {
        "data": {"prompt": Q, "b": BAD, "a": GOOD},
        "annotations": [{"completed_by": 1, "result": [label]}],
    }
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match="--left"):
        read_rankings(path)
    (found,) = read_rankings(path, options=ReadOptions(left="a", answers=("a", "b")))
    assert (found.completions, found.ranks) == ((GOOD, BAD), (0, 1))


def test_a_context_field_is_no_losing_answer_and_a_comment_is_no_vote(tmp_path):
    fields = {"prompt": Q, "context": "In Oslo.", "response1": GOOD, "response2": BAD}
    responses = {"best": [{"value": "response1"}], "comment": [{"value": "response2"}]}
    (found,) = read_rankings(write(tmp_path / "a.jsonl", {"fields": fields, "responses": responses}))
    assert (found.prompt, found.completions, found.ranks) == (f"{Q}\n\nIn Oslo.", (GOOD, BAD), (0, 1))
