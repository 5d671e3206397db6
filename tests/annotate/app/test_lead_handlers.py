"""The lead's pages behind Gradio's back: every handler asks who calls, whatever let the call in, and texts stay texts."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from annotate.app.lead.build import lead_pages
from annotate.app.lead.desk import Desk
from annotate.app.lead.endpoints import LeadEndpoints
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, NewTask
from annotate.store.accounts import add_account, set_active
from rlhf.errors import LabelError

REFUSED = "this needs the role lead"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The state of an app with a labeler, a lead, a lead who was kept out, and a batch."""
    with LabelStore(tmp_path_factory.mktemp("handlers") / "labels.db") as store:
        for name, role in (("ann", "labeler"), ("lea", "lead"), ("out", "lead")):
            add_account(store.database, name, role=role)
        set_active(store.database, "out", False)
        store.add_batch("b", [NewTask(prompt="q", completions=("x", "y"))])
        yield create_app(store, AppSettings()).state


@pytest.fixture(scope="module")
def handlers(shared):
    """Every function behind an event of the lead's pages, with the number of values it takes."""
    blocks = lead_pages(Desk(shared, "en"))
    return [(event.fn, len(event.inputs)) for event in blocks.fns.values()]


def asked_by(name):
    return SimpleNamespace(username=name, query_params={"batch": "b"})


@pytest.mark.parametrize(
    ("caller", "said"), [("ann", REFUSED), ("out", "not signed in"), (None, "not signed in")]
)
def test_every_handler_refuses_who_is_no_lead(handlers, caller, said):
    assert len(handlers) > 15
    for handler, takes in handlers:
        try:
            reply = json.dumps(handler(*[""] * takes, request=asked_by(caller)))
        except LabelError as error:
            reply = str(error)
        assert said in reply, handler.__name__


def test_every_endpoint_of_a_lead_refuses_a_labeler(shared, monkeypatch):
    offered = []
    monkeypatch.setattr("annotate.app.lead.endpoints.offer", offered.append)
    LeadEndpoints(shared).offer()
    assert len(offered) > 8
    values = {"tokens": False}
    for endpoint in offered:
        taken = [
            name
            for name in endpoint.__code__.co_varnames[1 : endpoint.__code__.co_argcount]
            if name != "request"
        ]
        given = {name: values.get(name, "b") for name in taken}
        with pytest.raises(LabelError, match=REFUSED):
            endpoint(**given, request=asked_by("ann"))


def test_an_address_that_names_no_batch_and_a_field_left_empty_break_no_page(handlers):
    """A lead's own handlers never raise, whatever stands in the form."""
    for handler, takes in handlers:
        for value in ("", None):
            if handler.__name__ in ("create_batch", "make_accounts", "save_settings") and value is None:
                continue  # Gradio gives these fields texts
            handler(
                *[value] * takes, request=SimpleNamespace(username="lea", query_params={"batch": "no such"})
            )


def test_gradio_is_not_asked_to_show_any_text_itself(shared):
    blocks = lead_pages(Desk(shared, "en"))
    assert not [block for block in blocks.blocks.values() if isinstance(block, gr.HTML | gr.Markdown)]
