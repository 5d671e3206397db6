"""Sentences made from numbers: what they say of results worked out by hand."""

import copy
import json

import pytest

from rlhf.errors import InputError
from rlhf.measuring.ranked_pairs import RankedPair, report_on_pairs
from rlhf.store import Store
from stages.judging.changes import paired
from stages.report.findings import checkpoint, findings, reward_model, won
from stages.report.report import html_page, render, report_lines


def policy(**more):
    return {
        "mean_score": 1.0, "mean_reward": 1.0, "kl": None, "mean_length": 30.0, "mean_words": 20.0, "ended": 1.0,
        "distinct_bigrams": 0.8, "repetition": 0.0, "share_alike": 0.0,
    } | more  # fmt: skip


def row(mine, other, rate, ci, equal):
    return {"policy": mine, "against": other, "win_rate": rate, "ci95": ci, "n": 320, "ties": 20,
            "win_rate_at_equal_length": equal, "ci95_at_equal_length": [equal - 0.05, equal + 0.05]}  # fmt: skip


def ahead(judged, reward, width=0.1):
    return {
        "judged": [judged, judged - width, judged + width],
        "reward": [reward, reward - width, reward + width],
    }


def curve(*judged, width=0.1):
    """Points of these scores, each with how far the best is ahead of it, the interval of that as wide as width."""
    best = max(judged)
    return [
        {"policy": f"p{i}", "kl": float(i), "reward": float(i), "judged": score,
         "best_ahead": ahead(best - score, judged.index(best) - i, width)}
        for i, score in enumerate(judged)
    ]  # fmt: skip


RESULTS = {
    "prompts": 320,
    "judge": "gold",
    "reward": "reward",
    "reference": "sft",
    "temperature": 1.0,
    "policies": {"sft": policy(), "ppo at 1024": policy(), "ppo": policy(mean_words=30.0, ended=0.9, share_alike=0.25)},
    "comparisons": [row("ppo", "sft", 0.71, [0.65, 0.75], 0.69), row("ppo", "ppo at 1024", 0.4, [0.3, 0.45], 0.4)],
    "strengths": [],
    "curve": [
        {"policy": "sft", "kl": 0.0, "reward": 0.0, "judged": 0.1, "best_ahead": ahead(0.7, 1.0)},
        {"policy": "ppo at 1024", "kl": 4.2, "reward": 1.0, "judged": 0.8, "best_ahead": ahead(0.0, 0.0)},
        {"policy": "ppo", "kl": 9.0, "reward": 2.0, "judged": 0.5, "best_ahead": ahead(0.3, -1.0)},
    ],
    "best_of": [],
    "tasks": {"sft": {"share": 0.33, "ci95": [0.25, 0.42], "n": 100}, "ppo": {"share": 0.6, "ci95": [0.5, 0.7], "n": 100}},
    "text_loss": {"sft": {"loss": 3.1, "tokens": 9}, "ppo": {"loss": 3.15, "tokens": 9}},
    "examples": [{"prompt": "q", "answers": {name: {"text": "t", "ended": True, "score": 0.5} for name in ("sft", "ppo at 1024", "ppo")}}],
}  # fmt: skip


def test_each_finding_is_a_sentence_of_the_numbers():
    assert findings(RESULTS) == [
        "ppo beats sft: it wins 71.0 % of 300 decided prompts [65, 75], at equal length 69.0 % [64, 74].",
        "Take ppo at 1024 (KL 4.2 nats): after it the judge's score falls from 0.80 to 0.50 while the reward that was "
        "climbed still rises from 1.00 to 2.00: over-optimisation.",
        "ppo's answers have 30 words, 1.50 times sft's; 90.0 % of them end by themselves, 100.0 % of sft's.",
        "ppo keeps 60.0 % of 100 constraints that a program checks [50, 70], sft 33.0 % [25, 42].",
        "On plain text ppo loses 3.150 nats per token, sft 3.100: a tax of 0.050.",
        "25.0 % of ppo's answers are given to more than one prompt, 0.0 % of sft's.",
    ]


def test_an_interval_that_holds_one_half_says_that_nothing_is_clear():
    assert "is not clearly better or worse than" in won(row("a", "b", 0.52, [0.46, 0.58], 0.5))
    assert "a loses to b" in won(row("a", "b", 0.3, [0.2, 0.4], 0.3))
    close = copy.deepcopy(RESULTS)
    close["tasks"]["ppo"]["ci95"] = [0.4, 0.7]
    assert any("no clear difference" in sentence for sentence in findings(close))


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (curve(2.0, 5.0, 9.0), "The judge's score rises to the end: take p2 (KL 2.0 nats)."),
        (curve(2.0, 9.0, 3.0, 9.01), "Take p3 (KL 3.0 nats): the judge's score is highest at the end, 9.01, without a clear rise up to it."),
        (curve(2.0, 2.01, 2.02), "Take p2 (KL 2.0 nats): the judge's score is highest at the end, 2.02, without a clear rise up to it."),
        (curve(2.0, 2.01, 2.0), "Take p1 (KL 1.0 nats): the judge's score is highest there, 2.01; the last one's, 2.00, is not clearly lower."),
        (curve(2.0, 5.0, 3.0), "Take p1 (KL 1.0 nats): after it the judge's score falls from 5.00 to 3.00 while the reward that was climbed still "
         "rises from 1.00 to 2.00: over-optimisation."),
        (curve(2.0, 5.0, 3.0, width=1.5), "Take p1 (KL 1.0 nats): after it the judge's score falls from 5.00 to 3.00."),
        ([{name: value for name, value in point.items() if name != "best_ahead"} for point in curve(2.0, 5.0, 3.0)],
         "Take p1 (KL 1.0 nats): the judge's score is highest there, 5.00; the last one's, 3.00, is not clearly lower."),
    ],
)  # fmt: skip
def test_a_score_rises_or_falls_only_where_its_paired_interval_says_so(points, said):
    assert checkpoint({"curve": points}) == [said]


def test_a_difference_whose_paired_interval_holds_0_is_called_unclear():
    unclear = copy.deepcopy(RESULTS)
    unclear["changes"] = {"ppo": {"words": [10, -1, 21], "share_alike": [0.25, -0.1, 0.6]}}
    unclear["tasks"]["ppo"]["against_reference"] = [0.27, -0.1, 0.64]
    for name, losses in (("sft", [3.0, 3.2, 3.1]), ("ppo", [3.5, 2.9, 3.05])):
        unclear["text_loss"][name]["by_window"] = losses
    said = findings(unclear)
    assert sum("no clear difference" in sentence for sentence in said) == 3
    assert not any("more than one prompt" in sentence for sentence in said)


def test_the_paired_interval_by_hand():
    """Differences 1, 2 and 3 of three conversations: mean 2, standard error 1 / √3, t of two degrees 4.3027."""
    mine, theirs, prompts = [1.0, 4, 6, None], [0.0, 2, 3, 1], ["a", "b", "c", "d"]
    mean, low, high = paired(prompts, mine, theirs)
    reach = 4.3027 / 3**0.5
    assert (mean, low, high) == pytest.approx((2.0, 2 - reach, 2 + reach), abs=2e-4)
    assert paired(prompts * 2, mine * 2, theirs * 2) == [mean, low, high]
    assert paired(["a", "a"], [1, 2], [0, 0]) is None and paired(prompts, None, theirs) is None


def test_one_policy_alone_has_a_page_too():
    alone = {**RESULTS, "reference": None, "policies": {"ppo": policy()}, "comparisons": [], "curve": [],
             "tasks": {}, "text_loss": {}, "examples": [{"prompt": "q", "answers": {"ppo": {"text": "t", "ended": True, "score": None}}}]}  # fmt: skip
    assert findings(alone) == []
    assert "Who wins" not in html_page("x", alone) and any("ppo" in line for line in report_lines(alone))


def test_what_stands_in_a_text_is_never_markup_and_nothing_is_fetched():
    hostile = "</script><script>alert(1)</script><img src=http://127.0.0.1/x onerror=alert(1)>"
    results = copy.deepcopy(RESULTS)
    results["examples"][0]["prompt"] = results["examples"][0]["answers"]["ppo"]["text"] = hostile
    page = html_page(hostile, results)
    assert "<img" not in page and page.count("</script>") == 2
    assert "default-src 'none'" in page


def test_a_dollar_sign_in_a_name_starts_no_formula():
    results = json.loads(json.dumps(RESULTS).replace('"sft"', '"m$x_1"').replace('"ppo"', '"b$c_$"'))
    results["strengths"] = [
        {"policy": n, "log_strength": 0.1, "ci95": [0.0, 0.2]} for n in results["policies"]
    ]
    page = html_page("x", results)
    assert "b$c_$ over m$x_1, equal length</text>" in page and "KL to m$x_1, nats</text>" in page


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"policies": {', "damaged"), ('{"policies": {}}', "prompts, judge"), ("[]", "not the results")],
)
def test_a_damaged_report_is_one_line(tmp_path, text, reason):
    folder = tmp_path / "reports/bad"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(text)
    with pytest.raises(InputError, match=f"results.json: .*{reason}.* makes it again") as error:
        render(Store(tmp_path), "bad", print)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("twice", "said"), [(1, "of the 1 pair on which both prefer an answer"), (1200, "of the 1,200 pairs on which both prefer an answer")])  # fmt: skip
def test_how_often_labelers_agree_comes_with_the_pairs_it_was_counted_on(twice, said):
    pairs = [RankedPair(f"q{i}", "a b", "a", 1.0, 0.0) for i in range(20)]
    sentence = reward_model("gold", report_on_pairs(pairs, 0.75, twice))
    assert f"two labelers agree on 75.0 % {said}" in sentence
    assert "agree" not in reward_model("gold", report_on_pairs(pairs))
