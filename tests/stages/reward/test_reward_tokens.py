"""Rankings as a reward model reads them: cut and closed alike in training and measuring, and what teaches nothing left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import Ranking
from rlhf.learning.rewards import score_completions, score_rows
from stages.judging.reward_models import report_on_reward_model
from stages.reward.data import RankedPrompt
from stages.reward.stage import held_out_metrics
from stages.reward.tokens import Counts, encode_completions, encode_rankings
from tests.tiny_ppo import TOKENIZER, scalar


def encoded(*groups, max_length=16, skip_long=False):
    counts = Counts()
    return list(encode_rankings(groups, TOKENIZER, max_length, skip_long, counts)), counts


def test_a_cut_answer_is_closed_by_the_end_token_as_scoring_closes_it():
    group = RankedPrompt("one", ("two", "Tom has a blue boat. The dog barks in the park."), ((0, 1),))
    rows, num_cut = encode_completions(group, TOKENIZER, 16)
    assert num_cut == 1 and [row[-1] for row in rows] == [TOKENIZER.eos_id] * 2
    assert max(map(len, rows)) == 16


def test_answers_that_are_equal_once_cut_teach_nothing_and_are_counted():
    start = "Tom has a blue boat. The dog barks in the park. "
    examples, counts = encoded(RankedPrompt("one", (start + "Yes.", start + "No."), ((0, 1),)))
    assert examples == [] and "1 prompts left out, their answers equal once cut" in counts.line(16)
    # Beside a third answer that differs, nothing is left to compare it with: which twin is meant cannot be seen.
    examples, counts = encoded(RankedPrompt("one", (start + "Yes.", "two", start + "No."), ((0, 1, 2),)))
    assert examples == [] and counts.equal == 1
    # Twins that tie are one answer.
    (example,), _ = encoded(RankedPrompt("one", (start + "Yes.", "two", start + "No."), ((0, 1, 0),)))
    assert example["ranks"] == [[0, 1]] and example["num_words"] == [12, 1]


def test_long_answers_are_left_out_on_request():
    long = RankedPrompt("one", ("two", "Tom has a blue boat. The dog barks in the park."), ((0, 1),))
    examples, counts = encoded(long, RankedPrompt("one", ("two", "three"), ((0, 1),)), skip_long=True)
    assert len(examples) == 1 and counts.too_long == 1


@given(
    st.lists(st.text(max_size=40), min_size=2, max_size=5, unique=True),
    st.text(min_size=1, max_size=60),
    st.integers(4, 40),
    st.randoms(use_true_random=False),
)
def test_every_row_is_within_max_length_and_rows_stay_apart(completions, prompt, max_length, random):
    ranks = [tuple(random.randrange(3) for _ in completions) for _ in range(2)]
    examples, _ = encoded(RankedPrompt(prompt, tuple(completions), tuple(ranks)), max_length=max_length)
    for example in examples:
        rows = [tuple(row) for row in example["rows"]]
        assert len(set(rows)) == len(rows) and max(map(len, rows)) <= max_length
        assert all(row[-1] == TOKENIZER.eos_id for row in rows)
        assert all(len(given) == len(rows) and len(set(given)) > 1 for given in example["ranks"])


def test_accuracy_on_many_rows_of_few_conversations_is_as_sure_as_of_so_few():
    """One answer to each prompt against ten others, as many pairs: what decides one of them decides all of them."""
    groups = [
        RankedPrompt(f"Say {p}", (f"one {p}", "two " * (i + 2)), ((0, 1) if p % 2 else (1, 0),))
        for p in range(6)
        for i in range(10)
    ]
    examples, _ = encoded(*groups, max_length=64)
    found = held_out_metrics(scalar().eval(), TOKENIZER, examples)
    low, high = found["accuracy_ci95"]
    assert found["pairs"] == 60 and high - low > 0.4


def test_a_long_answer_is_scored_as_the_row_that_is_learned_from(tmp_path):
    """In the manifest, by `rlhf eval --rankings` and wherever else a text is scored."""
    words, model = ["red", "kite", "park", "blue", "boat", "dog", "say", "one", "two"], scalar().eval()
    rankings = [
        Ranking(prompt=f"prompt {i}", completions=tuple(" ".join(words[(i + k) % 9 :] * 12) for k in (0, 1)), ranks=(0, 1))
        for i in range(40)
    ]  # fmt: skip
    groups = [RankedPrompt(row.prompt, row.completions, (row.ranks,)) for row in rankings]
    examples, counts = encoded(*groups, max_length=32)
    assert counts.cut == 80
    scored = score_completions(
        model, TOKENIZER, [(row.prompt, text) for row in rankings for text in row.completions], max_length=32
    )
    learned = score_rows(model, [row for example in examples for row in example["rows"]], TOKENIZER.pad_id)
    assert scored == pytest.approx(learned, abs=1e-5)
    twins = score_rows(model, [[5] * 9, [5] * 9, [5, 6]], TOKENIZER.pad_id, batch_size=2)
    assert twins[0] == twins[1]
    model.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    in_manifest = held_out_metrics(model, TOKENIZER, examples)["accuracy"]
    found = report_on_reward_model(tmp_path, {"x": rankings}, 32)
    assert found["accuracy"][0] == in_manifest and found["pairs_decided_twice"] == 0
