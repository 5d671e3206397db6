"""Live batches and webhooks: what other processes do for a batch, and what happens when they die."""

import hashlib
import hmac
import json
import socket
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from sqlalchemy import text

from annotate.labels import LabelStore, NewTask, Submission
from annotate.work import assign, live, webhooks
from annotate.work.batches import BatchSettings, change_batch
from rlhf.errors import LabelError

SECRET = "a secret of some length"


@pytest.fixture
def live_store(store):
    prompts = [f"q{i}" for i in range(6)]
    live.add_live_batch(
        store.database, BatchSettings(name="live"), prompts, "ppo/1", k=2, sampling={"temperature": 0.7}
    )
    return store


def sample(store, num=10):
    """What a sampler process does."""
    wanted = live.claim_requests(store.database, num)
    for one in wanted:
        live.fulfil_request(store.database, one.id, [f"{one.prompt} a", f"{one.prompt} b"], [True, False])
    return wanted


def test_answers_are_made_as_tasks_are_opened(live_store):
    store = live_store
    assert store.lease("ann", "live") is None
    assert assign.reason_without_task(store.database, "ann", "live") == "sampling"
    wanted = sample(store)
    assert [one.prompt for one in wanted] == ["q0", "q1", "q2"]
    assert (wanted[0].checkpoint, wanted[0].k, wanted[0].sampling) == ("ppo/1", 2, {"temperature": 0.7})
    answers = []
    while task := store.lease("ann", "live"):
        store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))
        answers.append(task)
        sample(store)
    assert {task.prompt for task in answers} == {f"q{i}" for i in range(6)}
    assert answers[0].ended == (True, False)
    assert assign.reason_without_task(store.database, "ann", "live") == "done"
    assert live.queue_counts(store.database, "live")["done"] == 6


@pytest.mark.parametrize(("overlap", "kind"), [(2, "rank"), (1, "skip")])
def test_what_a_labeler_has_done_is_no_stock_for_them(store, overlap, kind):
    prompts = [f"q{i}" for i in range(6)]
    live.add_live_batch(store.database, BatchSettings(name="live", overlap=overlap), prompts, "ppo/1", k=2)
    for labeler in ("ann", "bob"):
        done = set()
        sample(store)
        while task := store.lease(labeler, "live"):
            ranks = (0, 1) if kind == "rank" else ()
            given = Submission(task_id=task.id, client_id=f"{labeler}{task.id}", kind=kind, ranks=ranks)
            store.submit(labeler, given)
            done.add(task.prompt)
            sample(store)
        assert done == set(prompts)
    assert live.queue_counts(store.database, "live")["done"] == 6


def test_a_dead_samplers_claims_go_to_the_next_and_a_late_answer_changes_nothing(live_store):
    first = live.claim_requests(live_store.database)
    assert live.claim_requests(live_store.database) == []
    with live_store.database.write() as connection:
        connection.execute(text(f"UPDATE live_request SET claimed = claimed - {live.CLAIM_S + 1}"))
    assert sample(live_store) == first
    assert live.fulfil_request(live_store.database, first[0].id, ["late", "later"], [None, None]) is None
    assert live_store.progress("live").tasks == 3


def test_a_prompt_that_cannot_be_answered_is_given_up_with_its_reason(live_store):
    (one, *_) = live.claim_requests(live_store.database)
    with pytest.raises(LabelError, match="1 answers"):
        live.fulfil_request(live_store.database, one.id, ["only one"], [True])
    live.fail_request(live_store.database, one.id, "every answer was the same")
    counts = live.queue_counts(live_store.database, "live")
    assert counts["failed"] == 1 and counts["wanted"] == 1


def test_a_live_batch_is_complete_when_its_last_prompt_is_done(live_store):
    webhooks.set_webhook(live_store.database, "live", "http://127.0.0.1:9/", SECRET)
    completed = []
    sample(live_store)
    while task := live_store.lease("ann", "live"):
        live_store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))
        with live_store.database.read() as connection:
            completed.append(connection.execute(text("SELECT count(*) FROM webhook_delivery")).scalar())
        sample(live_store)
    assert completed == [0, 0, 0, 0, 0, 1]


def notices(store):
    with store.database.read() as connection:
        return connection.execute(text("SELECT count(*) FROM webhook_delivery")).scalar()


def test_a_live_batch_is_complete_when_its_last_prompt_is_given_up(live_store):
    webhooks.set_webhook(live_store.database, "live", "http://127.0.0.1:9/", SECRET)
    lost = []
    while True:
        for one in live.claim_requests(live_store.database):
            if one.prompt == "q5":
                lost.append(one)
            else:
                live.fulfil_request(live_store.database, one.id, ["a", "b"], [True, True])
        if not (task := live_store.lease("ann", "live")):
            break
        live_store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))
    assert notices(live_store) == 0
    live.fail_request(live_store.database, lost[0].id, "every answer was the same")
    assert notices(live_store) == 1
    late = live.fulfil_request(live_store.database, lost[0].id, ["a", "b"], [True, True])
    live_store.lease("ann", "live")
    live_store.submit("ann", Submission(task_id=late, client_id="late", ranks=(0, 1)))
    assert notices(live_store) == 2


def test_a_batch_is_complete_by_a_lower_overlap_and_again_after_a_higher_one(store):
    store.add_batch("done", [NewTask(prompt="q", completions=("a", "b"))], overlap=2)
    webhooks.set_webhook(store.database, "done", "http://127.0.0.1:9/", SECRET)

    task = store.lease("ann", "done").id
    told = []

    def answer(labeler, **said):
        store.submit(labeler, Submission(task_id=task, client_id=f"{labeler}{len(told)}", **said))

    for change in (
        lambda: answer("ann", ranks=(0, 1)),
        lambda: change_batch(store.database, "done", overlap=1),
        lambda: change_batch(store.database, "done", overlap=2),
        lambda: answer("bob", ranks=(0, 1)),
        lambda: answer("bob", kind="skip"),
        lambda: answer("cleo", ranks=(0, 1)),
    ):
        change()
        told.append(notices(store))
    assert told == [0, 1, 1, 2, 2, 3]


def test_a_save_that_leaves_the_overlap_leaves_tasks_their_own(store):
    tasks = [NewTask(prompt=f"q{overlap}", completions=("a", "b"), overlap=overlap) for overlap in (3, None)]
    store.add_batch("own", tasks)
    change_batch(store.database, "own", guidelines="new", overlap=1)
    assert store.progress("own").wanted == 4
    change_batch(store.database, "own", overlap=5)
    assert store.progress("own").wanted == 10


class Receiver(BaseHTTPRequestHandler):
    answers: list = []  # noqa: RUF012
    received: list = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, self.headers, body))
        status = self.answers.pop(0) if self.answers else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    Receiver.answers, Receiver.received = [], []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Receiver, f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()


def complete(store, name, hook):
    store.add_batch(name, [NewTask(prompt="q", completions=("a", "b"))])
    webhooks.set_webhook(store.database, name, hook, SECRET)
    task = store.lease("ann", name)
    store.submit("ann", Submission(task_id=task.id, client_id=name, ranks=(0, 1)))


def make_due(store):
    with store.database.write() as connection:
        connection.execute(text("UPDATE webhook_delivery SET next_attempt = 0"))


def test_a_complete_batch_is_told_once_and_signed(store, receiver):
    log, hook = receiver
    complete(store, "done", hook)
    assert webhooks.deliver_due(store.database) == 1
    assert webhooks.deliver_due(store.database) == 0
    ((path, headers, body),) = log.received
    assert path == "/hook" and json.loads(body)["batch"] == "done"
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-RLHF-Signature"] == f"sha256={signature}"


def test_a_notice_is_tried_again_over_a_restart_and_never_redirected(store, receiver, url):
    log, hook = receiver
    log.answers += [500, 302]
    complete(store, "done", hook)
    assert webhooks.deliver_due(store.database) == 0
    assert webhooks.deliver_due(store.database) == 0 and len(log.received) == 1  # not due yet
    with LabelStore(url) as again:
        make_due(again)
        assert webhooks.deliver_due(again.database) == 0
        make_due(again)
        assert webhooks.deliver_due(again.database) == 1
    assert [path for path, _, _ in log.received] == ["/hook"] * 3
    assert len({headers["X-RLHF-Delivery"] for _, headers, _ in log.received}) == 1


@pytest.fixture
def oddity():
    """The address of a server that answers with these bytes, one after the other, and never ends."""
    with ExitStack() as ended:

        def serve(answer):
            server = ended.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run():
                connection, _ = server.accept()
                with suppress(OSError):
                    for byte in answer:
                        connection.send(bytes([byte]))
                        time.sleep(0.01)
                    time.sleep(60)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/hook"

        yield serve


def test_addresses_that_answer_nonsense_or_nothing_keep_no_other_notice_back(
    store, receiver, oddity, monkeypatch
):
    monkeypatch.setattr(webhooks, "WHOLE_S", 0.5)
    log, hook = receiver
    bad = {
        "garbage": oddity(b"\x00\xff nonsense\r\n\r\n"),
        "silent": oddity(b""),
        "endless": oddity(b"HTTP/1.1 200 OK\r\n" + b"x" * 10_000),
        "space": "http://127.0.0.1:9/a b\tc",
        "port": "http://127.0.0.1:99999/",
        "name": "http://" + "ä" * 80 + ".example/",
    }
    for name, address in bad.items():
        complete(store, name, address)
    complete(store, "good", hook)
    assert webhooks.deliver_due(store.database) == 1
    assert [json.loads(body)["batch"] for _, _, body in log.received] == ["good"]
    with store.database.read() as connection:
        errors = connection.execute(text("SELECT error FROM webhook_delivery ORDER BY id")).scalars().all()
    assert all(errors[:-1]) and not errors[-1]


def test_a_webhook_needs_an_address_and_a_secret(store):
    store.add_batch("done", [NewTask(prompt="q", completions=("a", "b"))])
    wrong = ["file:///etc/passwd", "http://", "http://[", "http://[x]/"]
    for hook, secret in (*((one, SECRET) for one in wrong), ("http://x.example", "short")):
        with pytest.raises(LabelError, match="webhook"):
            webhooks.set_webhook(store.database, "done", hook, secret)
