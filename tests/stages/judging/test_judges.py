"""Judges by what they say: a function, a model behind a real endpoint, people in a real label store."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from annotate.labels import LabelStore, Submission
from rlhf.data import PromptRow
from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import ScalarGPT
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store
from stages.judging import best_of_n, endpoint
from stages.judging.answers import Answers
from stages.judging.endpoint import Endpoint
from stages.judging.evaluate import run
from stages.judging.judges import Scorer, named_judge, named_scorer
from stages.judging.kept import MeasurementCache
from stages.judging.people import People
from stages.judging_settings import BestOfNSettings, EvalSettings
from stages.report.report import html_page, render, write_report


def quiet(line):
    pass


def answers(*texts):
    return Answers(list(texts), [True] * len(texts), [3] * len(texts), [None] * len(texts))


ROWS = [PromptRow(prompt=f"q{i}", columns={"wanted": f"right {i}"}) for i in range(4)]
NOTHING_KEPT = MeasurementCache(None, quiet)


@contextmanager
def judging_server(reply):
    """An endpoint whose model says reply(prompt text, number of the request), which may be all of a reply's bytes."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            said = reply(body["messages"][0]["content"], len(asked))
            if isinstance(said, bytes):
                self.wfile.write(said)
                return
            choice = said if isinstance(said, dict) else {"message": {"content": said}}
            status, data = (said, b"busy") if isinstance(said, int) else (200, json.dumps({"choices": [choice]}).encode())  # fmt: skip
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#judge-model", asked
    finally:
        server.shutdown()
        server.server_close()


def prefers_good(text, _):
    a, b = text.split("<answer_a>")[1].split("<answer_b>")
    return "The better one is: B" if "good" in b and "good" not in a else "A"


def test_an_endpoint_is_asked_in_both_orders_and_a_habit_of_place_is_a_tie(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    given = {"new": answers("good", "bad", "same", "x"), "old": answers("bad", "good", "same", "y")}
    with judging_server(prefers_good) as (name, asked):
        found = Endpoint.named(name, NOTHING_KEPT).compare(ROWS, given, "new", "old")
    # Of x and y it always takes the first: no verdict. Equal answers are not asked about.
    assert found == [1.0, 0.0, 0.5, 0.5]
    assert len(asked) == 6 and {path for path, _, _ in asked} == {"/v1/chat/completions"}
    assert {key for _, key, _ in asked} == {"Bearer k"} and {b["model"] for _, _, b in asked} == {"judge-model"}  # fmt: skip


def pairs(n):
    return {"new": answers(*(f"good {i}" for i in range(n))), "old": answers(*(f"bad {i}" for i in range(n)))}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("A", "A"), ("b.", "B"), ("**TIE**", "TIE"), ("It's a tie.", "TIE"), ("answer_a", "A"), ("Answer: b", "B"),
        ("B is a better answer.", "B"), ('{"verdict": "A"}', "A"), ("<think>\nA? No, B.\n</think>\nA", "A"),
        ("", None), ("A is worse than B", None), ("<think>\nMaybe A", None), ("I cannot say.", None),
    ],
)  # fmt: skip
def test_a_verdict_is_what_a_reply_names_and_nothing_else(said, verdict):
    assert endpoint.verdict_in(said) == verdict


def test_pairs_without_a_verdict_are_counted_and_said_and_not_judged(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE_S", 0.01)
    lines = []
    kept = MeasurementCache(None, lines.append)
    with judging_server(lambda text, n: 503 if n <= 3 else "no idea" if "good 1" in text else prefers_good(text, n)) as (name, _):  # fmt: skip
        assert Endpoint.named(name, kept).compare(ROWS, pairs(4), "new", "old") == [1.0, None, 1.0, 1.0]
    assert any("no verdict on 1 of 4 pairs of new and old" in line for line in lines)


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        (401, "401 busy", 1),  # a refusal is not asked again
        ("A is worse than B", "none of its 2 replies is A, B or TIE", 2),
        ({"finish_reason": "length", "message": {"content": None, "reasoning_content": "Let me"}}, "cut off at 16", 1),
        ({"finish_reason": "length", "message": {"content": "<think>\nIs A"}}, "cut off at 16", 1),
        ({"message": "A"}, "dictionary", 4),
        (b"this is not http\r\n\r\n", "this is not http", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "IncompleteRead", 4),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 500\r\n\r\nno", "503 no", 4),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", "asks to wait 3600 s", 1),
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_judge_is_one_line(monkeypatch, reply, reason, requests):
    monkeypatch.setattr(endpoint, "PAUSE_S", 0.01)
    with (
        judging_server(lambda text, n: reply) as (name, asked),
        pytest.raises(InputError, match=f"judge http.*{reason}") as error,
    ):
        Endpoint.named(name, NOTHING_KEPT).compare(ROWS[:1], pairs(1), "new", "old")
    assert "\n" not in str(error.value) and len(asked) == requests


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_endpoint_is_asked_again_when_it_says(monkeypatch, as_date):
    monkeypatch.setattr(endpoint, "PAUSE_S", 0.01)
    when = formatdate(time.time() + 2.5, usegmt=True) if as_date else "1"
    busy, asked_at = f"HTTP/1.1 429 Slow\r\nRetry-After: {when}\r\nContent-Length: 0\r\n\r\n".encode(), []

    def reply(text, n):
        asked_at.append(time.monotonic())
        return busy if n == 1 else prefers_good(text, n)

    with judging_server(reply) as (name, _):
        assert Endpoint.named(name, MeasurementCache(None, quiet)).compare(ROWS[:1], pairs(1), "new", "old") == [1.0]  # fmt: skip
    assert asked_at[1] - asked_at[0] >= 0.95


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("http://127.0.0.1:1/v1", "#MODEL"), ("http://localhost:80a/v1#m", "not an address"), ("http:///v1#m", "not an address"),
        ("http://local host/v1#m", "not an address"), ("http://127.0.0.1:99999/v1#m", "not an address"),
    ],
)  # fmt: skip
def test_an_endpoint_that_is_no_address_is_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        Endpoint.named(name, NOTHING_KEPT)


def test_a_key_may_end_in_a_newline_and_one_that_no_header_can_hold_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\r\n")
    with judging_server(prefers_good) as (name, asked):
        Endpoint.named(name, MeasurementCache(None, quiet)).compare(ROWS[:1], pairs(1), "new", "old")
    assert {key for _, key, _ in asked} == {"Bearer secret"}
    for key in ("sec\nret", "s\u00e9cret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(InputError, match="OPENAI_API_KEY: holds a character") as error:
            Endpoint.named(name, NOTHING_KEPT)
        assert "ret" not in str(error.value)


def test_verdicts_of_an_endpoint_are_kept_as_they_come(tmp_path):
    def judged(reply):
        with judging_server(reply) as (name, asked):
            judge = Endpoint("judge", name.split("#")[0], "m", MeasurementCache(tmp_path, quiet))
            try:
                return judge.compare(ROWS, pairs(4), "new", "old"), len(asked)
            except InputError:
                return None, len(asked)

    found, before = judged(lambda text, n: 400 if "good 3" in text else prefers_good(text, n))
    assert found is None and before == 7  # two of three pairs, and one refusal
    assert judged(prefers_good) == ([1.0] * 4, 2)
    assert judged(prefers_good) == ([1.0] * 4, 0)


def test_people_judge_blindly_and_what_they_said_is_read_by_the_same_call(tmp_path):
    url, given = str(tmp_path / "labels.db"), {"new": answers(*"abcd"), "old": answers(*"efgd")}
    people = People(url, "round", quiet)
    assert people.compare(ROWS, given, "new", "old") == [None, None, None, 0.5]
    with LabelStore(url) as labels:
        labels.add_labeler("ann")
        batch = "round-new-old"
        assert labels.progress(batch).tasks == 3
        while task := labels.lease("ann", batch):
            # The page shows letters, never checkpoints: ann likes a and f.
            best = next(text for text in ("a", "f", "tie") if text in (*task.completions, "tie"))
            verdict = "tie" if best == "tie" else "ab"[task.completions.index(best)]
            labels.submit("ann", Submission(task_id=task.id, client_id=f"{task.id}", kind="compare", verdict=verdict))  # fmt: skip
    assert people.compare(ROWS, given, "new", "old") == [1.0, 0.0, 0.5, 0.5]
    with pytest.raises(InputError, match="of other answers"):
        people.compare(ROWS, given | {"new": answers(*"wxyz")}, "new", "old")


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_judges.py").write_text(
        "def exact(prompts, completions, wanted):\n"
        "    return [None if w is None else float(c == w) for c, w in zip(completions, wanted)]\n"
        "def length(prompts, completions):\n    return [len(c) for c in completions]\n"
        "def brevity(prompts, completions):\n    return [-len(c) for c in completions]\n"
        "def even(prompts, completions):\n    return [None if len(c) % 2 else -1.0 - len(c) for c in completions]\n"
        "def none(prompts, completions):\n    return [None for c in completions]\n"
        "def nan(prompts, completions):\n    return [float('nan') if len(c) % 2 else 5.0 for c in completions]\n"
        "def inf(prompts, completions):\n    return [float('-inf') if len(c) % 2 else 5.0 for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    return "my_judges"


def test_a_function_judges_by_the_prompts_columns_and_need_not_judge_all(tmp_path, functions):
    judge = named_scorer(Store(tmp_path), f"{functions}:exact", NOTHING_KEPT)
    rows = [*ROWS[:2], PromptRow(prompt="q", columns={})]
    given = {"new": answers("right 0", "no", "x"), "old": answers("no", "right 1", "y")}
    assert judge.compare(rows, given, "new", "old") == [1.0, 0.0, None]
    with pytest.raises(InputError, match="people need a name"):
        named_judge(Store(tmp_path), "people", NOTHING_KEPT, None, None)


def test_checkpoints_are_judged_and_reported_from_what_was_kept(base_store, functions):
    folder = str(base_store.resolve("base").path)
    settings = EvalSettings(
        policy="base", against=folder, judge=f"{functions}:length", reward=f"{functions}:brevity", best_of=4,
        num_prompts=6, max_new_tokens=6, name="measured",
    )  # fmt: skip
    results = run(settings, base_store, None, quiet)
    assert list(results["policies"]) == [folder, "best of 4", "base"]
    assert [(row["policy"], row["against"]) for row in results["comparisons"]] == [("best of 4", folder), ("base", folder), ("base", "best of 4")]  # fmt: skip
    # The reward likes short answers and the judge long ones: choosing by it costs what is wanted.
    points = results["best_of"]
    assert [point["n"] for point in points] == [1, 2, 4]
    assert points[-1]["reward"] > points[0]["reward"] and points[-1]["judged"] < points[0]["judged"]
    assert abs(results["policies"]["base"]["kl"]) < 1e-3  # the same weights under another name
    assert {row["policy"] for row in results["strengths"]} == set(results["policies"])
    lines = []
    again = run(settings, base_store, None, lines.append)
    assert again == results and not any(line.startswith("judge: answers") for line in lines)
    write_report(base_store.root / "reports/measured", "measured", results, quiet)
    assert render(base_store, "measured", quiet).read_text() == html_page("measured", results)
    with pytest.raises(InputError, match="there are: measured"):
        render(base_store, "nothing", quiet)


def best_of_n_settings(functions, name, **more):
    prompts = {"prompts": "p.jsonl", "num_prompts": 6, "max_new_tokens": 6, "temperature": 1.5}
    return BestOfNSettings(policy="base", reward=f"{functions}:{name}", **{**prompts, "n": 8, **more})


@pytest.fixture
def some_prompts(functions):
    rows = [{"prompt": f"Which color has kite {i}?"} for i in range(6)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["nan", "inf"])
def test_a_score_that_is_no_finite_number_is_refused_and_wins_nothing(base_store, functions, some_prompts, name):  # fmt: skip
    judge = named_scorer(base_store, f"{functions}:{name}", NOTHING_KEPT)
    given = {"new": answers("a", "bb"), "old": answers("aa", "bb")}
    with pytest.raises(InputError, match=rf"judge {functions}:{name}: the score of an answer to 'q0' is no"):
        judge.compare(ROWS[:2], given, "new", "old")
    with pytest.raises(InputError, match=rf"reward {name}: the score of an answer to 'Which color.* is no"):
        best_of_n.run(best_of_n_settings(functions, name), base_store, quiet)


def test_an_answer_that_nobody_judges_is_never_the_best_of_n(base_store, functions, some_prompts):
    even, lines = f"{functions}:even", []  # every score is below 0
    settings = EvalSettings(
        policy="base", against=str(base_store.resolve("base").path), judge=even, reward=even, best_of=8, num_prompts=6,
        max_new_tokens=6, temperature=1.5,
    )  # fmt: skip
    results = run(settings, base_store, None, lines.append)
    judged = [row["answers"]["best of 8"]["score"] for row in results["examples"]]
    assert None not in judged and any(f"{even} does not judge" in line for line in lines)
    assert None in [row["answers"]["base"]["score"] for row in results["examples"]]
    found = best_of_n.run(best_of_n_settings(functions, "even", out="best.jsonl"), base_store, quiet)
    rows = [json.loads(line) for line in Path("best.jsonl").read_text().splitlines()]
    assert all(len(row["completion"]) % 2 == 0 for row in rows)
    assert found["unjudged"] == 0 and found["mean_reward_of_best"] > found["mean_reward"]
    with pytest.raises(InputError, match="judges none of the answers"):
        best_of_n.run(best_of_n_settings(functions, "none"), base_store, quiet)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"policy": "base,base"}, "judged against itself"),
        ({"best_of": 4}, "--against by --reward"),
        ({"rankings": "r.jsonl"}, "--reward"),
        ({"name": "../up"}, "letters"),
        ({"prompts": "p.jsonl"}, "--judge"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(base_store, more, reason):
    with pytest.raises(InputError, match=reason):
        run(EvalSettings(**{"policy": "base", **more}), base_store, None, quiet)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"rankings": "ties.jsonl", "reward": "my_judges:length"}, "my_judges:length is a function"),
        ({"rankings": "nothing.jsonl", "reward": "scalar"}, "nothing.jsonl"),
        ({"rankings": "ties.jsonl", "reward": "scalar"}, "ties.jsonl: holds no pair"),
        ({"texts": "nothing.txt"}, "nothing.txt"),
        ({"tasks": "long.jsonl"}, "--tasks long.jsonl .*prompt 2 has"),
        ({"tasks": "nothing.jsonl"}, "nothing.jsonl"),
        ({"demonstrations": "nothing.jsonl"}, "nothing.jsonl"),
        ({"demonstrations": "others.jsonl"}, "--demonstrations others.jsonl: answers none of the 2 prompts"),
        ({"reward": "base"}, "not a reward model"),
    ],
)
def test_what_is_wrong_with_a_file_or_a_reward_is_said_before_anything_is_measured(base_store, functions, more, reason):  # fmt: skip
    ScalarGPT(load_policy(base_store.resolve("base").path).config).save_pretrained("scalar")
    base_tokenizer = load_tokenizer(base_store.resolve("base").path)
    base_tokenizer.save(Path("scalar"))
    Path("long.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("short", "word " * 500)))
    Path("others.jsonl").write_text(json.dumps({"prompt": "what nobody asks", "completion": "a"}))
    Path("ties.jsonl").write_text(json.dumps({"prompt": "q", "completions": ["a", "b"], "ranks": [0, 0]}))
    lines = []
    settings = EvalSettings(**{"policy": "base", "num_prompts": 2, "max_new_tokens": 4, "num_tasks": 5, "max_task_tokens": 4, **more})  # fmt: skip
    with pytest.raises(InputError, match=reason):
        run(settings, base_store, None, lines.append)
    assert not any(line.startswith("judge: ") for line in lines)


def test_tasks_that_leave_no_room_are_left_out_and_counted(base_store, functions):
    Path("long.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("short", "word " * 500)))
    lines = []
    settings = EvalSettings(policy="base", num_prompts=2, max_new_tokens=4, max_task_tokens=4, tasks="long.jsonl", skip_long=True)  # fmt: skip
    results = run(settings, base_store, None, lines.append)
    assert results["tasks"]["base"]["n"] == 1
    assert any("tasks: left out 1 of 2" in line for line in lines)


def test_peoples_own_answers_are_one_more_side(base_store, functions):
    rows = [
        {"prompt": "short", "completion": "w " * 50},
        {"prompt": "other", "completion": "w"},
        {"prompt": "no"},
    ]
    Path("asked.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    Path("written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    lines = []
    settings = EvalSettings(
        policy="base", prompts="asked.jsonl", demonstrations="written.jsonl", judge="my_judges:length", max_new_tokens=4
    )  # fmt: skip
    (row,) = run(settings, base_store, None, lines.append)["comparisons"]
    assert (row["policy"], row["against"], row["n"], row["win_rate"]) == ("base", "demonstrations", 1, 0.0)
    assert "eval: 1 of 3 prompts have an answer in written.jsonl" in lines


def test_identical_answers_tie_whatever_batch_each_was_scored_in():
    def score(rows, given):  # rounds otherwise in each batch, and judges no empty answer
        return [
            float(len(text)) + 1e-7 * hash(tuple(given.texts)) % 1 if text else None for text in given.texts
        ]

    judge = Scorer("model", "", score, NOTHING_KEPT)
    both = {"a": answers("same", "x", "longer", ""), "b": answers("same", "y y", "long", "")}
    assert judge.compare(ROWS, both, "a", "b") == [0.5, 0.0, 1.0, None]
    cut = replace(both["b"], ended=[False] * 4)
    assert judge.compare(ROWS, both | {"b": cut}, "a", "b")[0] == 0.5
    penal = Scorer("ends", "", lambda rows, given: [float(end) for end in given.ended], NOTHING_KEPT, True)
    assert penal.compare(ROWS, both | {"b": cut}, "a", "b") == [1.0] * 4
