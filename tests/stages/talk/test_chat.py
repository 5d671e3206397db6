"""Talking in a terminal: answers stream, feedback is kept, Ctrl-C stops an answer only; also through a pipe."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy

from annotate.labels import LabelStore
from annotate.store.schema import Annotation, Completion, TaskCompletion
from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.sampling.generate import SamplingSettings, generate
from stages.talk import conversation, saved, serve, terminal
from stages.talking_settings import ChatSettings
from tests import forked
from tests.chat.tiny import TOKENIZER, tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("terminal") / "store")


@pytest.fixture
def labels(tmp_path):
    return tmp_path / "labels.db"


def talk(store, lines, labels, **settings):
    out = io.StringIO()
    asked = ChatSettings(**{"policy": "ppo", "max_new_tokens": 8, "temperature": 1.0} | settings)
    terminal.run(asked, store, str(labels), io.StringIO("\n".join(lines) + "\n"), out)
    return out.getvalue()


def kept(labels):
    """(kind, prompt, completions, ranks or text) of what the label store would train on."""
    with LabelStore(labels) as found:
        rankings = [(ranking.prompt, ranking.completions, ranking.ranks) for ranking in found.rankings()]
        demonstrations = [(row.prompt, row.completion) for row in found.demonstrations()]
    return rankings, demonstrations


def test_every_line_gets_an_answer_and_the_conversation_is_saved(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    lines = ["Hello", "And then?", f"/save {path}", "/reset", f"/save {path}", "/quit", "never read"]
    talk(store, lines, labels)
    first, second = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [message["role"] for message in first] == ["user", "assistant", "user", "assistant"]
    assert first[2]["content"] == "And then?"
    assert second == []


def test_blocks_read_from_their_files_give_the_same_answers_and_only_at_the_terminal(store, labels):
    lines = ["Hello", "And then?"]
    assert talk(store, lines, labels, offload=True) == talk(store, lines, labels)
    with pytest.raises(InputError, match="leave --web or --offload out"):
        serve.run_page(ChatSettings(policy="ppo", offload=True, web=True), store, str(labels), print)


def test_an_answer_is_what_the_checkpoint_says_for_its_seed(store, labels):
    settings = SamplingSettings(max_new_tokens=8, top_p=0.95)
    prompt = TOKENIZER.encode_prompt([{"role": "user", "content": "Hello"}])
    ends = {"stop_ids": TOKENIZER.stop_ids}
    [sample] = generate(load_policy(store.resolve("ppo").path), [prompt], settings, seed=5, **ends)
    assert talk(store, ["Hello"], labels, seed=4) == TOKENIZER.decode(sample.tokens) + "\n"
    assert talk(store, ["Hello"], labels, seed=5) != talk(store, ["Hello"], labels, seed=4)


def test_system_text_and_checkpoint_can_be_changed(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    out = talk(
        store, ["/model", "/model sft", "/system Be brief.", "Hello", f"/save {path}", "/model nope"], labels
    )
    assert "(talking to ppo/0001-tiny)" in out and "  base/0001-tiny" in out
    assert "(talking to sft/0001-tiny)" in out and "(error: nope" in out
    [line] = path.read_text().splitlines()
    assert json.loads(line)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_good_and_bad_and_edit_go_into_the_label_store(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    out = talk(store, ["/good", "Hello", "/good", "/edit The dog barks.", f"/save {path}"], labels)
    assert "no answer yet" in out and "(kept: good)" in out
    _, [(prompt, text)] = kept(labels)
    assert prompt == [{"role": "user", "content": "Hello"}] and text == "The dog barks."
    assert json.loads(path.read_text())["messages"][-1]["content"] == "The dog barks."
    with LabelStore(labels) as found:
        assert found.batches() == ["chat ratings", "chat rewrites"]


def test_compare_keeps_the_choice_and_names_the_checkpoints_after_it(store, labels):
    out = talk(store, ["Hello", "/compare sft", "b", "/compare", "t", "/compare", "what?"], labels)
    first, second = out.splitlines()[1:3]
    [(prompt, completions, ranks), tie] = kept(labels)[0]
    assert prompt == [{"role": "user", "content": "Hello"}]
    assert completions == (first.removeprefix("A: "), second.removeprefix("B: "))
    assert ranks[1] < ranks[0] and len(set(tie[2])) == 1
    assert "sft/0001-tiny" not in first + second and "(no choice kept)" in out
    assert "sft/0001-tiny" in out.splitlines()[3]


def test_both_answers_of_a_comparison_are_to_the_prompt_that_it_is_kept_with(store, labels, monkeypatch):
    prompts, ask = [], conversation.Request
    monkeypatch.setattr(
        conversation, "Request", lambda **asked: prompts.append(list(asked["messages"])) or ask(**asked)
    )
    talk(store, ["Hello", "/system Answer like a pirate.", "/compare", "a"], labels, system="Be polite.")
    [(prompt, *_)] = kept(labels)[0]
    polite = [{"role": "system", "content": "Be polite."}, {"role": "user", "content": "Hello"}]
    assert prompts == [polite, polite] and prompt == polite


def test_a_checkpoint_without_room_for_what_the_first_answer_was_given_is_not_compared(store, labels):
    """base has a context of 4096, ppo one of 512."""
    lines = [*["the dog barks in the park " * 12] * 6, "/compare ppo", "a", "/good"]
    out = talk(store, lines, labels, policy="base")
    assert "answers to different prompts are not compared" in out and "A: " not in out
    assert kept(labels)[0] == []
    with LabelStore(labels) as found:
        assert found.batches() == ["chat ratings"]  # of the first answer, which is still the last one


class CtrlCAt(io.StringIO):
    """Lines of a person who presses Ctrl-C where the line ^C stands."""

    def readline(self, *args):
        line = super().readline(*args)
        if line == "^C\n":
            raise KeyboardInterrupt
        return line


def test_ctrl_c_in_a_comparison_leaves_the_first_answer_and_what_is_said_is_of_that(store, labels):
    out = io.StringIO()
    lines = CtrlCAt("\n".join(["Hello", "/compare sft", "^C", "/show", "/good"]) + "\n")
    settings = ChatSettings(policy="ppo", max_new_tokens=8, temperature=1.0)
    terminal.run(settings, store, str(labels), lines, out)
    with LabelStore(labels) as found, found.database.read() as connection:
        of_ratings = TaskCompletion.task_id.in_(
            sqlalchemy.select(Annotation.task_id).where(Annotation.kind == "rate")
        )
        query = sqlalchemy.select(Completion.text).join(TaskCompletion).where(of_ratings)
        [rated] = connection.execute(query).scalars()
    [shown] = [line for line in out.getvalue().splitlines() if line.startswith("assistant: ")]
    assert rated == shown.removeprefix("assistant: ")


@pytest.mark.parametrize("verdict", ["t", "n"])
def test_an_edited_answer_stays_where_no_other_is_chosen(store, labels, verdict):
    out = talk(store, ["Hello", "/edit My own words.", "/compare sft", verdict, "/show"], labels)
    assert out.splitlines()[-1] == "assistant: My own words."


def test_a_full_context_leaves_out_the_oldest_turns_and_says_so(store, labels, capsys):
    talk(store, ["the dog barks in the park " * 12] * 9, labels, system="Be brief.")
    assert "oldest messages were left out" in capsys.readouterr().err


def test_what_cannot_be_answered_is_said_and_not_remembered(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    out = talk(store, ["the dog " * 300, "Hello", f"/save {path}"], labels)
    assert "context is 512" in out
    assert [message["role"] for message in json.loads(path.read_text())["messages"]] == ["user", "assistant"]


def test_a_file_that_cannot_be_written_is_said(store, labels, tmp_path):
    assert "not saved" in talk(store, ["Hello", f"/save {tmp_path}/no/such/folder/x.jsonl"], labels)


def test_a_text_of_several_lines_stands_between_triple_quotes(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    talk(store, ['"""one', "", "/two", 'three"""', '"""short"""', f"/save {path}"], labels)
    messages = json.loads(path.read_text())["messages"]
    assert [message["content"] for message in messages[::2]] == ["one\n\n/two\nthree", "short"]


def test_regenerate_replaces_the_last_answer(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    first, second = talk(store, ["Hello", "/regenerate", f"/save {path}"], labels).splitlines()[:2]
    assert first != second
    messages = json.loads(path.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["content"] == second.strip()
    assert "there is no answer yet" in talk(store, ["/regenerate"], labels)


def test_settings_are_changed_while_talking_and_refused_out_of_range(store, labels):
    greedy = talk(store, ["/set temperature 0", "Hello", "/reset", "Hello"], labels).splitlines()
    assert greedy[0].startswith("(temperature 0.0, top_p 0.95") and greedy[1] == greedy[3]
    assert "max_new_tokens none" in talk(store, ["/set max_new_tokens none"], labels)
    wrong = talk(
        store,
        [
            "/set temperature hot",
            "/set top_p 3",
            "/set warmth 1",
            "/set seed none",
            "/set seed",
            "/set temperature 2.1",
            "/set repetition_penalty 0.01",
        ],
        labels,
    )
    lines = wrong.splitlines()
    for words, line in zip(
        (
            "give a number",
            "top_p",
            "no such setting",
            "needs a number",
            "/set seed VALUE",
            "temperature",
            "repetition_penalty",
        ),
        lines,
        strict=True,
    ):
        assert line.startswith("(error: ") and words in line
    assert talk(store, ["/set"], labels).count("seed 0")


def test_a_saved_conversation_is_gone_on_with(store, labels, tmp_path):
    path = tmp_path / "chat.jsonl"
    talk(store, ["/system Be brief.", "Hello", f"/save {path}"], labels)
    shown = talk(store, [f"/load {path}", "/show", "And then?", f"/save {path}"], labels)
    assert "(2 messages of " in shown and "system: Be brief.\nuser: Hello\nassistant: " in shown
    first, second = (json.loads(line)["messages"] for line in path.read_text().splitlines())
    assert second[:3] == first and len(second) == 5
    bad = tmp_path / "bad.jsonl"
    for text in (
        "",
        "[]",
        '{"messages": [{"role": "judge", "content": "x"}]}',
        '{"messages": [{"role": "user"}]}',
    ):
        bad.write_text(text)
        assert "the last line is no conversation" in talk(store, [f"/load {bad}"], labels)
    assert "No such file" in talk(store, ["/load nowhere.jsonl"], labels)


@pytest.mark.parametrize("text", ["one\u2028two", "one\u0085two", "one\x0btwo", "one\r\ntwo"])
def test_any_text_that_is_saved_is_loaded_again(store, labels, tmp_path, text):
    path = tmp_path / "chat.jsonl"
    saved.save(path, [{"role": "user", "content": text}, {"role": "assistant", "content": text}])
    assert [message["content"] for message in saved.load(path)] == [text, text]


def test_timings_follow_each_answer_when_asked_for(store, labels, capsys):
    talk(store, ["/timings", "Hello", "/timings", "Hello"], labels, policy="base")
    told = [line for line in capsys.readouterr().err.splitlines() if "written" in line]
    assert len(told) == 1 and "8 written" in told[0] and "tokens/s" in told[0]


def command(store, *more):
    return [sys.executable, "-m", "stages.cli", "--store", str(store.root), "chat", *more]


def test_through_a_pipe_only_answers_come_out(store):
    done = forked.run(command(store, "--max-new-tokens", "8"), input="hi\n", check=True)
    assert done.stdout.count("\n") == 1 and "> " not in done.stdout and "ppo/0001-tiny" in done.stderr


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_bytes_that_are_no_text_end_no_conversation(store, tmp_path, locale):
    path = tmp_path / "chat.jsonl"
    done = subprocess.run(
        [*command(store, "--max-new-tokens", "8"), "--system", "日本語"],
        input=b"caf\xe9 \xff\n/show\n/save " + str(path).encode() + b"\n", capture_output=True, env=os.environ | locale,
    )  # fmt: skip
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr[-2000:]
    assert [row["role"] for row in json.loads(path.read_text())["messages"]] == [
        "system",
        "user",
        "assistant",
    ]


class Person:
    """Somebody at a terminal: types, and reads what is on the screen."""

    def __init__(self, store, home, *more):
        self.screen, slave = pty.openpty()
        environment = os.environ | {"XDG_STATE_HOME": str(home), "TERM": "xterm"}
        self.process = forked.Popen(
            command(store, *more), stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(slave)

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def read_until(self, *endings, patience=90.0):
        """What is printed until one of `endings` stands at the end and nothing follows for a while."""
        seen, started = b"", time.monotonic()
        while time.monotonic() - started < patience:
            ready, _, _ = select.select([self.screen], [], [], 0.5)
            if ready:
                seen += os.read(self.screen, 4096)
            elif seen.decode(errors="replace").endswith(endings or ("",)):
                return seen.decode(errors="replace")
        raise AssertionError(f"no {endings!r} at the end of {seen!r}")

    def leave(self):
        self.type("/quit\n")
        assert self.process.wait(timeout=60) == 0
        os.close(self.screen)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_at_a_terminal_lines_are_edited_completed_and_remembered(store, tmp_path):
    labels = tmp_path / "labels.db"
    options = ("--max-new-tokens", "8", "--labels", str(labels))
    person = Person(store, tmp_path, *options)
    person.read_until("> ")
    person.type("xhere is the dog\x01\x04w\n")  # Ctrl-A, Ctrl-D: to the beginning, delete a character
    person.read_until("> ")
    person.type("/go\t\n")  # Tab completes
    assert "(kept: good)" in person.read_until("> ")
    person.type("/edit\n")
    person.read_until()
    person.type("\x01\x0bThe dog barks.\n")  # Ctrl-A, Ctrl-K: the answer stands there to be edited
    assert "kept as a demonstration" in person.read_until("> ")
    person.leave()
    [(prompt, text)] = kept(labels)[1]
    assert prompt == [{"role": "user", "content": "where is the dog"}] and text == "The dog barks."
    again = Person(store, tmp_path, *options)
    again.read_until("> ")
    for _ in range(5):
        again.type("\x1b[A")  # up: back through the last session's lines to the first one
    assert "where is the dog" in again.read_until("where is the dog")
    again.type("\n")
    again.read_until("> ")
    again.leave()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_ctrl_c_stops_the_answer_and_not_the_program(store, tmp_path):
    person = Person(store, tmp_path, "--policy", "base", "--max-new-tokens", "4000")
    person.read_until("> ")
    person.type("Hello there\n")
    seen = b""
    while not seen.partition(b"there\r\n")[2]:  # until the answer begins: all of it takes half a second
        seen += os.read(person.screen, 64)
    person.process.send_signal(signal.SIGINT)
    assert "…" in person.read_until("> ")
    assert person.process.poll() is None
    person.type("half a line")
    person.read_until("half a line")
    person.process.send_signal(signal.SIGINT)
    person.read_until("> ")
    person.leave()
