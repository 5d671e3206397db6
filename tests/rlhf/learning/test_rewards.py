"""Scores of reward models, of their ensembles and of functions, by hand and against transformers."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rlhf.errors import InputError
from rlhf.learning.rewards import ForeignRewardModel, Reward, RewardFunction, RewardModel, score_completions
from rlhf.learning.rollout import Rollout
from rlhf.models.tokenizer import ForeignTokenizer, same_tokens, train_tokenizer

TEXTS = ["The red kite is in the park. Tom has a blue boat. Say one two three four."] * 5
POLICY = train_tokenizer(TEXTS, 300)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] + '<|endoftext|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)


def foreign(pad: str | None = None, template: str = CHATML) -> ForeignTokenizer:
    """A tokenizer with other merges, another template, and a pad token that is none or the end token, as many have."""
    backend = (
        train_tokenizer(["blue boats say little of kites, one by one"] * 5, 280).fast().backend_tokenizer
    )
    return ForeignTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|endoftext|>", pad_token=pad, chat_template=template
        )
    )


def llama(vocab_size: int, **more: object) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_labels": 1, "initializer_range": 0.3,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return LlamaForSequenceClassification(LlamaConfig(**sizes | more)).eval()  # type: ignore[arg-type]


PROMPTS = [
    "Say one",
    [{"role": "user", "content": "The red kite?"}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Tom?"}],
    "blue",
]  # fmt: skip
ANSWERS = [("two three", True), ("Tom has a blue", False), ("boat", True)]


def rollout() -> Rollout:
    samples = []
    for text, ended in ANSWERS:
        tokens = POLICY.encode_completion(text) if ended else POLICY.encode(text)
        samples.append(SimpleNamespace(tokens=tokens, logprobs=[-1.0] * len(tokens), ended=ended))
    rows = [POLICY.encode_prompt(prompt) for prompt in PROMPTS]
    return Rollout.from_samples(rows, samples, POLICY.pad_id, conversations=PROMPTS, end_id=POLICY.eos_id)


def alone(model: LlamaForSequenceClassification, tokens: list[int]) -> float:
    """The head's number at the last token of one sequence by itself."""
    with torch.no_grad():
        states = model.model(input_ids=torch.tensor([tokens])).last_hidden_state
        return float(model.score(states[0, -1])[0])


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_a_foreign_reward_model_reads_the_conversation_in_its_own_template(pad: str | None) -> None:
    tokenizer = foreign(pad)
    model = llama(tokenizer.vocab_size, pad_token_id=None if pad is None else tokenizer.eos_id)
    given = ForeignRewardModel(model, tokenizer, POLICY, bf16="off")(rollout())
    end = "<|endoftext|>"
    texts = [
        f"<|im_start|>user Say one{end}<|im_start|>assistant two three{end}",
        f"<|im_start|>user The red kite?{end}<|im_start|>assistant Yes.{end}<|im_start|>user Tom?{end}"
        f"<|im_start|>assistant Tom has a blue{end}",  # cut off, and read where the model learned to be read
        f"<|im_start|>user blue{end}<|im_start|>assistant boat{end}",
    ]
    wanted = []
    for prompt, (text, _) in zip(PROMPTS, ANSWERS, strict=True):
        tokens = tokenizer.encode_prompt(prompt) + tokenizer.encode(text) + [tokenizer.eos_id]
        wanted.append(alone(model, tokens))
        assert tokenizer.tokenizer.decode(tokens) == texts[len(wanted) - 1]
    torch.testing.assert_close(given, torch.tensor(wanted), atol=1e-5, rtol=1e-5)


def test_scores_of_text_are_read_at_the_end_token_even_where_it_is_the_pad_token() -> None:
    tokenizer = foreign(pad="<|endoftext|>")
    model = llama(tokenizer.vocab_size, pad_token_id=tokenizer.eos_id)
    rows = [(prompt, text) for prompt, (text, _) in zip(PROMPTS, ANSWERS, strict=True)]
    given = score_completions(model, tokenizer, rows, bf16="off")
    wanted = [alone(model, tokenizer.encode_prompt(p) + tokenizer.encode_completion(t)) for p, t in rows]
    assert given == pytest.approx(wanted, abs=1e-5)


def test_a_reward_model_of_the_same_tokens_takes_them_as_they_are_and_reads_at_the_end_token() -> None:
    model = llama(POLICY.vocab_size)
    given = RewardModel(model, batch_size=2, bf16="off")(rollout())
    rows = zip(rollout().prompts, rollout().completions, rollout().ended, strict=True)
    closed = [prompt + said + [POLICY.eos_id] * (not ended) for prompt, said, ended in rows]
    torch.testing.assert_close(
        given, torch.tensor([alone(model, row) for row in closed]), atol=1e-5, rtol=1e-5
    )


def test_a_rollout_is_scored_as_its_text_is_whether_it_ended_or_not() -> None:
    model = llama(POLICY.vocab_size)
    given = RewardModel(model, bf16="off")(rollout())
    rows = [(prompt, text) for prompt, (text, _) in zip(PROMPTS, ANSWERS, strict=True)]
    assert given.tolist() == pytest.approx(score_completions(model, POLICY, rows, bf16="off"), abs=1e-5)


def test_tokenizers_are_the_same_by_vocabulary_and_template() -> None:
    assert same_tokens(POLICY, train_tokenizer(TEXTS, 300)) and same_tokens(foreign(), foreign())
    assert not same_tokens(POLICY, train_tokenizer(TEXTS, 290))
    assert not same_tokens(POLICY, foreign()) and not same_tokens(
        foreign(), foreign(template="{{ messages }}")
    )


def test_a_function_sees_prompts_as_the_data_has_them_and_plain_text() -> None:
    seen: list[object] = []

    def reward(prompts: list[object], completions: list[str]) -> list[float]:
        seen.extend([prompts, completions])
        return [len(text) for text in completions]

    scores = RewardFunction(reward, POLICY)(rollout())
    assert seen == [PROMPTS, [text for text, _ in ANSWERS]]
    assert scores.tolist() == [9.0, 14.0, 4.0] and scores.dtype == torch.float32


ALIKE = {  # ways to write one function of prompts and completions; the column is the letter to count
    "by position": lambda asked, said, letter="x": counted(said, letter),
    "by position only": lambda asked, said, /, letter: counted(said, letter),
    "as trl's, completions first": lambda completions, prompts, letter: counted(completions, letter),
    "as trl's, completions alone": lambda completions, letter=None, **others: counted(completions, letter),
    "as trl's, all by name": lambda completions, **others: counted(others["prompts"] and completions, others["letter"]),
    "by name only": lambda *, letter, prompts, completions: counted(completions, letter),
    "prompts by name": lambda said, prompts, letter: counted(said, letter),
    "prompts first": lambda prompts, said, **others: counted(said, others["letter"]),
}  # fmt: skip


def counted(texts: list[str], letters: list[str]) -> list[float]:
    assert texts == [text for text, _ in ANSWERS]
    return [float(text.count(letter)) for text, letter in zip(texts, letters, strict=True)]


def with_letters() -> Rollout:
    return replace(rollout(), columns=[{"letter": letter, "prompts": "?"} for letter in "tab"])


@pytest.mark.parametrize("way", ALIKE)
def test_prompts_and_completions_reach_a_function_however_it_names_and_orders_them(way: str) -> None:
    assert RewardFunction(ALIKE[way], POLICY)(with_letters()).tolist() == [2.0, 2.0, 1.0]


class Empty:
    pass


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda: [0.0], "takes no prompts and completions"),
        (lambda text: [0.0], "takes no prompts and completions"),
        (lambda prompts: [0.0], "takes no prompts and completions"),
        (Empty, "Empty: it takes no prompts and completions"),
        (torch.nn.Linear(2, 2), "Linear: it takes no prompts and completions"),
        (lambda completions, digit: [0.0], "no prompt has a column digit; there are: letter"),
    ],
)
def test_a_function_that_cannot_be_called_with_them_is_refused_in_a_line(
    function: object, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        RewardFunction(function, POLICY)(with_letters())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ([1.0], "1 scores for 3"),
        (None, "not a list"),
        (["x", 1, 2], "not a list"),
        ({0: 1.0, 1: 2.0, 2: 3.0}, "not a list of numbers .it gave a dict"),
        ("123", "not a list of numbers .it gave a str"),
        (["1", "2", "3"], "not a list of numbers .'1' is a text"),
        ([10**400] * 3, "not a list of numbers .int too large"),
    ],
    ids=lambda value: f"{value:.10}" if isinstance(value, str) else type(value).__name__,
)
def test_a_function_that_gives_no_number_per_completion_is_refused(result: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        RewardFunction(lambda prompts, completions: result, POLICY)(rollout())  # type: ignore[arg-type, return-value]


def test_a_function_that_empties_its_lists_is_refused() -> None:
    with pytest.raises(InputError, match="0 scores for 3"):
        RewardFunction(lambda prompts, completions: completions.clear() or [], POLICY)(rollout())  # type: ignore[arg-type]


def fixed(*scores: float):  # type: ignore[no-untyped-def]
    return lambda rollout: torch.tensor(scores)


THREE = {"a": fixed(1, 4, 0), "b": fixed(3, 0, 0), "c": fixed(5, 2, -3)}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, [3, 2, -1]),
        ({"weights": (1.0, 2.0, -1.0)}, [1 + 6 - 5, 4 + 0 - 2, 0 + 0 + 3]),
        ({"combine": "min"}, [1, 0, -3]),
        # population standard deviations: √(8/3), √(8/3), √2
        ({"combine": "lower-bound", "pessimism": 2.0}, [3 - 2 * (8 / 3) ** 0.5, 2 - 2 * (8 / 3) ** 0.5, -1 - 2 * 2**0.5]),
    ],
)  # fmt: skip
def test_several_rewards_become_one_by_hand(more: dict, wanted: list[float]) -> None:
    reward = Reward(THREE, **more)
    components = reward.components(rollout())
    assert components.tolist() == [[1, 3, 5], [4, 0, 2], [0, 0, -3]]
    torch.testing.assert_close(reward.combined(components), torch.tensor(wanted, dtype=torch.float32))


@pytest.mark.parametrize("more", [{"weights": (1.0,)}, {"weights": (1.0, 1.0, 1.0), "combine": "min"}])
def test_weights_that_fit_nothing_are_refused(more: dict) -> None:
    with pytest.raises(InputError, match="reward weights"):
        Reward(THREE, **more)
