"""What a judgment measures of its models, against numbers worked out beside it."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from rlhf.data import Demonstration, PromptRow, as_messages
from rlhf.inputs import packed_tokens
from rlhf.measuring.constraints import draw_constraints
from rlhf.models.checkpoints import context_of, load_policy
from rlhf.models.tokenizer import Tokenizer, load_tokenizer
from stages.judging.answers import Model, answer, answers_to
from stages.judging.judges import Scorer
from stages.judging.judgment import Judgment
from stages.judging.kept import MeasurementCache
from stages.judging.measure import text_loss
from stages.judging_settings import EvalSettings
from stages.report.findings import findings
from tests.stages.judging.test_findings import RESULTS


@pytest.fixture(scope="module")
def moved(base_store, tmp_path_factory):
    """The base model with other weights."""
    folder = tmp_path_factory.mktemp("moved") / "model"
    shutil.copytree(base_store.resolve("base").path, folder)
    policy = load_policy(folder)
    torch.manual_seed(0)
    for weight in policy.parameters():
        weight.data.add_(0.03 * torch.randn_like(weight))
    policy.save_pretrained(folder)
    return Model(folder, "moved")


@pytest.fixture(scope="module")
def other_tokens(moved, tmp_path_factory):
    """That model with as many tokens, of which two are exchanged."""
    folder = tmp_path_factory.mktemp("others") / "model"
    shutil.copytree(moved.folder, folder)
    one = load_tokenizer(folder)
    ranks = {**one.ranks, b"a": one.ranks[b"e"], b"e": one.ranks[b"a"]}
    Tokenizer(ranks, one.pattern, one.specials).save(folder)
    return Model(folder, "others")


def answered(model, reference, temperature, prompts=("Name a color.",)):
    return answer(model, reference, prompts, n=1, temperature=temperature, max_new_tokens=1, seed=0)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_kl_is_that_at_the_temperature_of_sampling(base_store, moved, temperature):
    base, asked = Model(base_store.resolve("base").path, "h"), "Name a color."
    row = torch.tensor([load_tokenizer(base.folder).encode_prompt(as_messages(asked))])
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(load_policy(m.folder).eval()(row).logits[0, -1].float() / temperature, 0)
            for m in (moved, base)
        )
    exact = float((log_p.exp() * (log_p - log_q)).sum())
    spread = float((log_p.exp() * (log_p - log_q - exact) ** 2).sum()) ** 0.5
    found = answered(moved, base, temperature, [asked] * 600).mean_kl
    assert found == pytest.approx(exact, abs=4 * spread / 600**0.5) and exact > 0.01


def test_what_means_nothing_of_two_models_is_not_said(base_store, moved, other_tokens, tmp_path):
    base = Model(base_store.resolve("base").path, "h")
    assert answered(moved, base, 0.0).kl == [None]  # greedy answers are no samples
    assert answered(other_tokens, base, 1.0).kl == [None] != answered(moved, base, 1.0).kl
    (tmp_path / "text.txt").write_text("The red kite a e a e is in the park. qaqeqa " * 20)
    losses = {
        name: text_loss(model, str(tmp_path / "text.txt"), 200)
        for name, model in {"sft": base, "moved": moved, "others": other_tokens}.items()
    }

    def said(*names):
        results = {**RESULTS, "text_loss": {name: losses[name] for name in names}}
        return [sentence for sentence in findings(results) if "plain text" in sentence]

    assert said("sft", "others") == [] and said("others") == []
    assert said("others", "sft", "moved") == said("sft", "moved") and "moved loses" in said("sft", "moved")[0]


def test_the_best_of_n_greedy_answers_has_no_kl_and_no_frontier(base_store, moved):
    settings = EvalSettings(best_of=4, temperature=0.0, max_new_tokens=4)
    kept = MeasurementCache(None, lambda line: None)
    scorer = Scorer("length", "", lambda rows, given: [float(len(text)) for text in given.texts], kept)
    models = {"base": Model(base_store.resolve("base").path, "h"), "moved": moved}
    rows = [PromptRow(prompt="Name a color.")]
    found = Judgment(settings, models, "base", rows, scorer, scorer, kept, 0).run()
    assert found["policies"]["best of 4"]["kl"] is None and found["best_of"] == []
    assert [point["policy"] for point in found["curve"]] == ["base"]


def test_differences_from_the_reference_and_from_the_best_are_paired(base_store, moved):
    kept = MeasurementCache(None, lambda line: None)
    scorer = Scorer("words", "", lambda rows, given: [float(n) for n in given.num_words], kept)
    models = {"base": Model(base_store.resolve("base").path, "h"), "moved": moved}
    rows = [PromptRow(prompt=f"Name color {i}.") for i in range(6)]
    tasks = draw_constraints([row.prompt for row in rows], 6, 0)
    found = Judgment(EvalSettings(max_new_tokens=8), models, "base", rows, scorer, None, kept, 0, tasks).run()
    mean, low, high = found["changes"]["moved"]["words"]
    base, other = (found["policies"][name]["mean_words"] for name in models)
    assert mean == pytest.approx(other - base, abs=1e-3) and low <= mean <= high
    best = max(found["curve"], key=lambda point: point["judged"])
    for point in found["curve"]:
        ahead = point["best_ahead"]
        assert ahead["judged"][0] == pytest.approx(best["judged"] - point["judged"], abs=1e-3)
        assert ahead["reward"] is None
    share = {name: each["share"] for name, each in found["tasks"].items()}
    paired = found["tasks"]["moved"]["against_reference"]
    assert paired[0] == pytest.approx(share["moved"] - share["base"], abs=1e-3)


def test_the_loss_on_a_text_longer_than_the_context_is_that_of_windows_which_the_model_can_read(
    base_store, tmp_path
):
    model = Model(base_store.resolve("base").path, "h")
    context = context_of(model.folder)
    assert context and context < 256  # ours reads less than a foreign model's window
    text = "The red kite is in the park. " * 100
    (tmp_path / "long.txt").write_text(text)
    found = text_loss(model, str(tmp_path / "long.txt"), 3 * context + 5)
    tokens = packed_tokens(model.tokenizer(), [text])[: 3 * context].view(3, context)
    with torch.no_grad():
        logits = load_policy(model.folder)(input_ids=tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert len(found["by_window"]) == 3
    assert found["loss"] == pytest.approx(sum(found["by_window"]) / 3, abs=1e-3)
    assert found["tokens"] == 3 * (context - 1) and math.isfinite(found["loss"])
    assert found["loss"] == pytest.approx(float(expected), abs=2e-3)


def test_policies_are_judged_against_peoples_own_answers_where_there_are_any(base_store, moved):
    kept = MeasurementCache(None, lambda line: None)
    scorer = Scorer("words", "", lambda rows, given: [float(n) for n in given.num_words], kept)
    models = {"base": Model(base_store.resolve("base").path, "h"), "moved": moved}
    rows = [PromptRow(prompt=f"Name color {i}.") for i in range(6)]
    demonstrations = [
        Demonstration(prompt=rows[i].prompt, completion=text) for i, text in ((0, "a " * 99), (3, "a"))
    ]
    demonstrations += [
        Demonstration(prompt=rows[0].prompt, completion="another"),
        Demonstration(prompt="?", completion="!"),
    ]
    written = answers_to([row.prompt for row in rows], demonstrations)
    assert [text[:2] for text in written] == ["a ", "", "", "a", "", ""]
    settings = EvalSettings(max_new_tokens=8)
    judgment = Judgment(settings, models, "base", rows, scorer, None, kept, 0, demonstrations=written)
    found, without = judgment.run(), replace(judgment, demonstrations=()).run()
    *others, base, last = found["comparisons"]
    assert others == without["comparisons"] and found["strengths"] == without["strengths"]
    for row, name in ((base, "base"), (last, "moved")):
        words = len(found["examples"][3]["answers"][name]["text"].split())
        assert (row["policy"], row["against"], row["n"]) == (name, "demonstrations", 2)
        assert row["ties"] == (words == 1)
        assert row["win_rate"] == (0.5 if words > 1 else 0.0)
    (said,) = [line for line in findings(found) if line.startswith("The judge prefers people's own answers")]
    assert not any(
        line.startswith("base") and "demonstrations" in line for line in findings(found)
    )  # said once
    assert "to base's on" in said and "worth little" in said  # of two prompts nothing is clear


class JudgeByPrompt:
    """Its verdict is the prompt's, whatever the answers."""

    name = "by prompt"

    def scores(self, rows, whose, given):
        return None

    def compare(self, rows, given, policy, against):
        return [float(row.prompt != "q0") for row in rows]


def test_a_prompt_asked_many_times_is_one_prompt_in_every_interval(base_store, moved):
    models = {"base": Model(base_store.resolve("base").path, "h"), "moved": moved}
    rows = [PromptRow(prompt=f"q{i % 4}") for i in range(80)]
    kept = MeasurementCache(None, lambda line: None)
    found = Judgment(EvalSettings(max_new_tokens=4), models, None, rows, JudgeByPrompt(), None, kept, 0).run()
    row, strengths = found["comparisons"][0], found["strengths"]
    assert row["win_rate"] == 0.75
    for low, high in (row["ci95"], row["ci95_at_equal_length"]):
        assert low < 0.5 and high > 0.95  # three prompts of four say nearly nothing
    assert strengths[0]["policy"] == "moved" and strengths[0]["ci95"][0] < 0
