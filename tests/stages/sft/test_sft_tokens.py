"""What of a demonstration is learned: which answers of a conversation, and how much of a long one."""

import pytest

from rlhf.data import Demonstration
from rlhf.errors import InputError
from rlhf.models.tokenizer import load_tokenizer
from stages.sft.tokens import NOT_LEARNED, Extent, encode_demonstration, tokenize_demonstrations

TURNS = [
    {"role": "user", "content": "Say one"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "Say two"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "Say three"},
]
TALK = Demonstration(prompt=TURNS, completion="three")


@pytest.fixture
def tokenizer(foreign_model):
    return load_tokenizer(foreign_model)


def learned(tokenizer, examples):
    """The texts under labels, run by run."""
    texts = []
    for example in examples:
        run = []
        for token, label in zip(
            [*example["input_ids"], None], [*example["labels"], NOT_LEARNED], strict=True
        ):
            if label != NOT_LEARNED:
                assert token == label
                run.append(token)
            elif run:
                assert run[-1] == tokenizer.eos_id  # where an answer ends is learned, too
                texts.append(tokenizer.decode(run).strip())
                run = []
    return texts


def test_all_answers_of_a_conversation_are_learned_or_the_last(tokenizer):
    assert sorted(learned(tokenizer, encode_demonstration(TALK, tokenizer, "all"))) == ["one", "three", "two"]
    assert learned(tokenizer, encode_demonstration(TALK, tokenizer, "last")) == ["three"]


def test_an_answer_that_the_source_says_not_to_learn_is_not(tokenizer):
    row = Demonstration(prompt=TURNS, completion="three", unlearned=(1,))
    assert sorted(learned(tokenizer, encode_demonstration(row, tokenizer, "all"))) == ["three", "two"]


def test_each_answer_is_learned_behind_the_prompt_the_model_will_be_asked_with(tokenizer):
    for example in encode_demonstration(TALK, tokenizer, "all"):
        for place in (1, 3, 5):
            asked = tokenizer.encode_prompt(TURNS[:place])
            end = len(asked)
            if example["input_ids"][:end] == asked and end < len(example["labels"]):
                assert example["labels"][end - 1] == NOT_LEARNED or example["labels"][end] != NOT_LEARNED


class Forgetful:
    """A chat template that drops all answers but the last, as those of reasoning models drop what was thought."""

    eos_id = 0

    def encode_prompt(self, messages):
        return [ord(c) for message in messages if message["role"] == "user" for c in message["content"]]

    def encode_completion(self, text, prompt):
        return [*map(ord, text), self.eos_id]

    def decode(self, tokens):
        return "".join(map(chr, tokens)).strip("\x00")


def test_an_answer_that_the_template_forgets_is_learned_in_a_row_of_its_own():
    examples = encode_demonstration(TALK, Forgetful(), "all")
    assert len(examples) == 3
    assert learned(Forgetful(), examples) == ["one", "two", "three"]


def test_long_rows_lose_their_end_or_are_left_out_and_both_are_counted(tmp_path):
    rows = [Demonstration(prompt="ab", completion="c"), Demonstration(prompt="ab", completion="c" * 20)]
    made, counts = tokenize_demonstrations(rows, Forgetful(), Extent(8), tmp_path)
    assert [len(row["input_ids"]) for row in made] == [4, 8]
    assert made[1]["labels"][-1] == ord("c")  # a cut answer does not teach to end there
    assert "2 answers to learn in 2 demonstrations; 50.0 % of them cut" in counts.line(8)
    made, counts = tokenize_demonstrations(rows, Forgetful(), Extent(8, skip_long=True), tmp_path)
    assert len(made) == 1 and "1 demonstrations left out, too long" in counts.line(8)
    with pytest.raises(InputError, match="max_length = 2"):
        tokenize_demonstrations(rows, Forgetful(), Extent(2), tmp_path)
