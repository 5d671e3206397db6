"""The engine in a process of its own: killed, cancelled, asked for what is not there."""

import asyncio
import json
import os
import queue
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from transformers import GPT2Config

from rlhf.errors import BusyError, ClosedError, EngineError, InputError
from rlhf.learning.rewards import score_completions
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.sampling.generate import SamplingSettings, generate
from rlhf.serving import engine_process
from rlhf.serving.completions import Answer, Done, Failed, Piece, Request, Started
from rlhf.serving.engine_process import EngineProcess
from tests import forked


def in_a_loop(coroutine):
    """Its result, from a thread of its own: Playwright leaves a running loop in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, coroutine).result()


TOKENIZER = train_tokenizer(["The red kite is in the park. Tom has a blue boat. Where is the dog?"] * 5, 300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two policies and a reward model, random and small."""
    made = {}
    for seed, (name, kind) in enumerate({"policy": GPT, "reference": GPT, "reward": ScalarGPT}.items()):
        torch.manual_seed(seed)
        size = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 2048, "initializer_range": 0.3}
        made[name] = str(tmp_path_factory.mktemp(name))
        kind(GPT2Config(vocab_size=TOKENIZER.vocab_size, **size)).save_pretrained(made[name])
        TOKENIZER.save(made[name])
    return made


@pytest.fixture(scope="module", autouse=True)
def quickly_started():
    """An engine is started a dozen times here, and has imported torch each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_process, "multiprocessing", forked.CONTEXTS)
        yield


@pytest.fixture(scope="module")
def process(quickly_started):
    with EngineProcess(max_rows=4, max_waiting=8) as running:
        yield running


def ask(text="where is the dog", **more):
    return Request(messages=({"role": "user", "content": text},), **{"temperature": 1.0, "top_p": 1.0} | more)


@cache
def long_request(folder, num_tokens):
    """A request whose answer has at least that many tokens."""
    model = load_policy(folder)
    for seed in range(200):
        request = ask(seed=seed, max_new_tokens=num_tokens)
        if len(alone(model, request).tokens) == num_tokens:
            return request
    raise AssertionError("no seed gives a long answer")


def alone(model, request):
    sampling = SamplingSettings(
        max_new_tokens=request.max_new_tokens, temperature=request.temperature, top_p=request.top_p
    )
    prompt = TOKENIZER.encode_prompt(list(request.messages))
    return generate(model, [prompt], sampling, stop_ids=TOKENIZER.stop_ids, seed=request.seed)[0]


def test_a_killed_engine_is_restarted_and_answers_go_on_where_they_were(process, folders):
    request = long_request(folders["policy"], 600)
    expected = TOKENIZER.decode(alone(load_policy(folders["policy"]), request).tokens)

    async def talk():
        answer, killed, num_started = Answer(), False, 0
        async for event in process.astream(folders["policy"], request):
            answer.add(event)
            num_started += isinstance(event, Started)
            if not killed and len(answer.text) > 40:
                killed = True
                os.kill(process.process.pid, signal.SIGKILL)
            assert not isinstance(event, Failed)
        return answer, killed, num_started

    starts = process.num_starts
    answer, killed, num_started = in_a_loop(talk())
    assert killed and process.num_starts == starts + 1 and num_started == 1
    assert answer.text == expected and answer.completion_tokens == 600
    assert not process.pending


def test_an_answer_that_kills_the_engine_again_and_again_is_given_up(process, folders):
    request = long_request(folders["policy"], 600)
    pids = set()
    events = []
    for event in process.stream(folders["policy"], request):
        events.append(event)
        pid = process.process.pid
        if isinstance(event, Piece) and pid not in pids:
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
    assert len(pids) == 2 and "given up" in events[-1].error
    assert in_a_loop(process.answer(folders["policy"], ask(max_new_tokens=3))).completion_tokens <= 3


# So many properties take a second to compile, in which the process is at this request.
SLOW = json.dumps({"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(3000)}})


def is_taking_up(process, key):
    begun, done = process.progress
    return str(begun) == key != str(done)


def test_what_the_engine_dies_of_is_given_up_and_nothing_else(process, folders):
    """A request that kills the engine whenever it is taken up, while another is answered."""
    pytest.importorskip("llguidance")
    request = long_request(folders["policy"], 600)
    expected = TOKENIZER.decode(alone(load_policy(folders["policy"]), request).tokens)
    with ThreadPoolExecutor(1) as threads:
        innocent = threads.submit(lambda: list(process.stream(folders["policy"], request)))
        while not process.status().get(folders["policy"], {"running": 0})["running"]:
            time.sleep(0.01)
        told = queue.SimpleQueue()
        key = process._ask("submit", told.put, folders["policy"], ask(json_schema=SLOW), False)
        for _ in range(2):
            while not is_taking_up(process, key):
                time.sleep(0.01)
            assert process.status()[folders["policy"]] == {"running": 1, "waiting": 1}  # told at once
            starts = process.num_starts
            os.kill(process.process.pid, signal.SIGKILL)
            while process.num_starts == starts:
                assert process.state in ("loading", "ready", "restarting")
                time.sleep(0.01)
        assert "given up" in told.get(timeout=60).error
        answer = Answer()
        for event in innocent.result():
            answer.add(event)
    assert answer.text == expected and answer.completion_tokens == 600
    assert not process.pending


def test_a_text_that_its_tokenizer_cannot_read_is_refused_and_the_engine_lives(process, folders, tmp_path):
    shutil.copytree(folders["policy"], tmp_path / "published")
    written = tmp_path / "published" / "encoding.json"
    pattern = {"pattern": r"\p{L}+|\s+(?!\S)|\s"}
    written.write_text(json.dumps(json.loads(written.read_text()) | pattern))
    starts, blanks = process.num_starts, " " * 1_000_000 + "a"

    async def all_of_them():
        asked = [process.answer(str(tmp_path / "published"), ask(blanks))]
        asked += [process.call("tokenize", str(tmp_path / "published"), blanks)]
        return await asyncio.gather(*asked, return_exceptions=True)

    for refused in in_a_loop(all_of_them()):
        assert type(refused) is InputError and "cannot be split into tokens" in str(refused)
    with pytest.raises(InputError, match="context is 2048"):
        in_a_loop(process.answer(folders["policy"], ask(blanks)))
    assert process.num_starts == starts


def test_a_hung_engine_is_taken_for_dead_and_the_answer_goes_on(folders):
    with EngineProcess(max_rows=4) as process:
        in_a_loop(process.answer(folders["policy"], ask(max_new_tokens=3)))  # the model is there now
        process.silent_s = 2.0
        request = long_request(folders["policy"], 600)
        hung, answer = process.process, Answer()
        for number, event in enumerate(process.stream(folders["policy"], request)):
            answer.add(event)
            if number == 3:
                os.kill(hung.pid, signal.SIGSTOP)
                threading.Thread(target=lambda: (hung.join(), setattr(process, "silent_s", 600))).start()
        expected = TOKENIZER.decode(alone(load_policy(folders["policy"]), request).tokens)
        assert process.num_starts == 2 and answer.text == expected


def test_an_engine_that_keeps_dying_is_started_after_longer_and_longer_pauses(folders, monkeypatch):
    with EngineProcess(max_rows=4) as process:
        pauses, wait = [], process.closing.wait
        monkeypatch.setattr(process.closing, "wait", lambda pause: pauses.append(pause) or wait(pause))
        for death in range(4):
            starts, died_at = process.num_starts, time.monotonic()
            os.kill(process.process.pid, signal.SIGKILL)
            while process.num_starts == starts:
                time.sleep(0.02)
            assert time.monotonic() - died_at >= pauses[death]
        assert pauses == [0, 1, 2, 4]
        assert in_a_loop(process.answer(folders["policy"], ask(max_new_tokens=3))).completion_tokens <= 3


def test_a_prompt_that_the_model_cannot_read_fails_alone(process, folders, tmp_path):
    """Damaged weights: behind place 400 the model gives no numbers."""
    torch.manual_seed(0)
    damaged = GPT(
        GPT2Config(vocab_size=TOKENIZER.vocab_size, n_layer=1, n_head=2, n_embd=16, n_positions=2048)
    )
    damaged.transformer.wpe.weight.data[400] = float("nan")
    damaged.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    good = {
        "max_new_tokens": 300,
        "temperature": 1.0,
        "logit_bias": dict.fromkeys(TOKENIZER.stop_ids, -100.0),
    }

    async def both():
        wanted = [Request(prompt=(1, 2, 3), seed=i, **good) for i in range(2)]
        wanted.append(Request(prompt=(7,) * 500, **good))
        asked = [process.answer(str(tmp_path), request) for request in wanted]
        return await asyncio.gather(*asked, return_exceptions=True)

    one, two, bad = in_a_loop(both())
    assert one.completion_tokens == two.completion_tokens == 300
    assert type(bad) is EngineError and "logits are no numbers" in str(bad)
    assert not process.pending


def test_what_is_asked_of_a_closed_engine_is_refused():
    process = EngineProcess()
    process.close()
    with pytest.raises(ClosedError, match="shutting down"):
        in_a_loop(process.answer("anything", ask()))


def test_leaving_the_loop_cancels_and_frees_the_slot(process, folders):
    request, heard = long_request(folders["policy"], 600), []
    process.listeners.append(lambda _, event: heard.append(event) if isinstance(event, Done) else None)
    for event in process.stream(folders["policy"], request):
        if isinstance(event, Piece):
            break
    deadline = time.monotonic() + 20
    while process.status()[folders["policy"]]["running"]:
        assert time.monotonic() < deadline
    assert not process.pending
    [ended] = heard
    assert ended.reason == "cancelled" and 0 < ended.completion_tokens < 600
    process.listeners.clear()


def test_a_full_line_and_a_missing_model_are_said(process, folders):
    async def crowd():
        asked = [process.answer(folders["policy"], ask(seed=i, max_new_tokens=60)) for i in range(30)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = in_a_loop(crowd())
    assert {type(answer) for answer in answers} == {Answer, BusyError}
    assert sum(isinstance(answer, Answer) for answer in answers) >= 8
    with pytest.raises(EngineError, match="no such folder"):  # whoever asks: the request is in order
        in_a_loop(process.answer("/no/such/model", ask()))


def test_more_requests_of_one_call_than_the_line_takes_follow_as_others_end(process, folders):
    requests = [ask(seed=i, max_new_tokens=8) for i in range(20)]
    together = in_a_loop(process.answers(folders["policy"], requests))
    expected = [alone(load_policy(folders["policy"]), request).tokens for request in requests]
    assert [answer.text for answer in together] == [TOKENIZER.decode(tokens) for tokens in expected]


def test_two_models_answer_at_the_same_time(process, folders):
    async def both():
        requests = [(folders[name], ask(seed=3, max_new_tokens=40)) for name in ("policy", "reference")]
        return await asyncio.gather(*(process.answer(*request) for request in requests))

    answers = in_a_loop(both())
    for name, answer in zip(("policy", "reference"), answers, strict=True):
        sample = alone(load_policy(folders[name]), ask(seed=3, max_new_tokens=40))
        assert answer.text == TOKENIZER.decode(sample.tokens)


def test_scores_and_explanations_are_those_of_the_models(process, folders):
    prompt, answer = [{"role": "user", "content": "where is the dog"}], "in the park"
    [score] = in_a_loop(process.call("score", folders["reward"], [(prompt, answer)]))
    from rlhf.models.checkpoints import load_scalar

    assert score == pytest.approx(
        score_completions(load_scalar(folders["reward"]), TOKENIZER, [(prompt, answer)])[0], abs=1e-5
    )
    told = in_a_loop(process.call("explain", folders["policy"], folders["reference"], prompt, answer, True))
    tokens = TOKENIZER.encode_completion(answer)
    assert [info.text for info in told.tokens] == [
        TOKENIZER.decode([token], keep_special=True) for token in tokens
    ]
    row = TOKENIZER.encode_prompt(prompt) + tokens
    for i, info in enumerate(told.tokens):  # the slow way: one forward pass for each place
        place = len(row) - len(tokens) + i
        with torch.no_grad():
            p, q = (
                load_policy(folders[name])(torch.tensor([row[:place]])).logits[0, -1].softmax(-1)
                for name in ("policy", "reference")
            )
        assert info.logprob == pytest.approx(float(p[row[place]].log()), abs=1e-4)
        assert told.ref_logprobs[i] == pytest.approx(float(q[row[place]].log()), abs=1e-4)
        assert told.kl[i] == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-4)
        assert info.alternatives[0][1] == pytest.approx(float(p.max().log()), abs=1e-4)
    same = in_a_loop(process.call("explain", folders["policy"], folders["policy"], prompt, answer, True))
    assert same.kl == pytest.approx([0.0] * len(tokens), abs=1e-6)
    cut = in_a_loop(process.call("explain", folders["policy"], None, prompt, answer, False))
    assert [info.text for info in cut.tokens] == [info.text for info in told.tokens[:-1]]


def test_the_process_that_starts_it_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, rlhf.serving.engine_process; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
