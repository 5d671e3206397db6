"""The report as one opens it: from a file, at a desk and on a phone."""

import copy
import random

import pytest

from rlhf.measuring.ranked_pairs import RankedPair, report_on_pairs
from stages.report.report import html_page
from tests.stages.judging.test_findings import RESULTS

HOSTILE = "</script><script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='taken'\">"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A report with every part: comparisons, frontier, a reward model, steps, forty prompts."""
    rng, results = random.Random(0), copy.deepcopy(RESULTS)
    texts = ["Yes.", "It is a long answer of many words. " * 8, HOSTILE, "unbroken" * 60]
    names = list(results["policies"])
    results["examples"] = [
        {
            "prompt": f"Question {i}: what is best?",
            "answers": {
                name: {"text": f"{name} says {i}: {texts[(i + k) % 4]}", "ended": (i + k) % 3 > 0, "score": round(rng.uniform(-2, 2), 3)}
                for k, name in enumerate(names)
            },
        }
        for i in range(40)
    ]  # fmt: skip
    results["examples"][7]["answers"]["ppo"]["score"] = None  # nobody judged it
    pairs = [
        RankedPair(f"q{i}", "w " * rng.randint(1, 60), HOSTILE if i == 3 else "w " * rng.randint(1, 60),
                   rng.gauss(0.6, 1), 0.0, ("hh", "oasst")[i % 2], f"labeler {i % 3}", float(1 + i % 3))
        for i in range(200)
    ]  # fmt: skip
    results["reward_models"] = {"reward": {"test": report_on_pairs(pairs, 0.726, 1200)}}
    results["best_of"] = [{"n": n, "kl": kl, "reward": kl, "judged": 0.3 * kl} for n, kl in ((1, 0.0), (2, 0.19), (4, 0.64))]  # fmt: skip
    results["strengths"] = [{"policy": n, "log_strength": s, "ci95": [s - 0.2, s + 0.2]} for n, s in zip(names, (-0.5, 0.3, 0.2), strict=True)]  # fmt: skip
    results |= {
        "seconds": {"sft": 60.0, "ppo": 600.0},
        "peak_gib": {"sft": 2.0, "ppo": 5.0},
        "peak_memory_gib": 5.0,
    }
    results["histories"] = [{"title": "ppo: reward", "xlabel": "step", "x": [1, 2, 3], "y": [0.0, 0.4, 0.6]}]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(html_page("aligned-0", results))
    return file


@pytest.mark.parametrize("size", SIZES)
def test_the_report_asks_nobody_runs_no_text_and_fits(chromium, page_file, size):
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height})
    asked, failed = [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: failed.append(str(error.error)))
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector(".example")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.title() == "aligned-0" and asked == [page_file.as_uri()] and failed == []
    assert page.locator(".example").count() == 40
    assert page.get_by_text(HOSTILE).count() > 0  # to be read, not to be run
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=page_file.with_name(f"{size}.png"), full_page=True)
    context.close()


def test_answers_are_found_filtered_and_sorted(chromium, page_file):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(page_file.as_uri())
    shown = page.locator(".example")
    page.get_by_label("Find").fill("question 17")
    assert shown.count() == 1 and "Question 17" in shown.inner_text()
    page.get_by_label("Find").fill("")
    page.get_by_label("Show").select_option("won")
    page.get_by_label("Sort by").select_option("gap")
    gaps = page.evaluate(
        """() => [...document.querySelectorAll(".example")].map((card) => {
            const scores = Object.fromEntries([...card.querySelectorAll("small")].map((x) => x.textContent.split(" · ")));
            return Number(scores["ppo"]) - Number(scores["ppo at 1024"]);
        })"""
    )
    assert 0 < len(gaps) < 40 and gaps == sorted(gaps, reverse=True) and min(gaps) > 0
    for which in ("won", "lost"):
        page.get_by_label("Show").select_option(which)
        assert not any("Question 7:" in card for card in shown.all_inner_texts())
    page.get_by_label("Show").select_option("all")
    for how in ("gap", "loss", "score"):
        page.get_by_label("Sort by").select_option(how)
        assert "Question 7:" in shown.last.inner_text()
    page.get_by_label("ppo at 1024", exact=True).uncheck()
    assert "ppo at 1024 ·" not in page.locator("#examples").inner_text()
    page.get_by_label("Show").select_option("cut")
    assert all("did not end" in card for card in shown.all_inner_texts())
    context.close()
