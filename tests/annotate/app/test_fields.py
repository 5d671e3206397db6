"""Fields of a lead's own page: what a page may ask, and what the server takes."""

import gradio as gr
import pytest

from annotate.app.site.parts import Parts
from rlhf.errors import InputError, LabelError


def fields_of(*asked):
    """The fields of a page that asks for these: (component's class, its arguments, name, required)."""
    with gr.Blocks():
        parts = Parts("en")
        parts.board()
        for kind, arguments, name, required in asked:
            parts.field(kind(**arguments), name=name, required=required)
        return parts.connected()


DOMAIN = (gr.Radio, {"choices": ["code", "prose"], "label": "Domain"}, "domain", True)
NOTE = (gr.Textbox, {"label": "Note"}, "note", False)
TOPICS = (gr.CheckboxGroup, {"choices": ["a", "b"], "label": "Topics"}, "topics", False)
LEVEL = (gr.Number, {"minimum": 1, "maximum": 5, "label": "Level"}, "level", False)
SURE = (gr.Checkbox, {"label": "Sure"}, "sure", False)


def test_what_was_filled_in_is_kept_and_what_was_left_empty_is_not():
    fields = fields_of(DOMAIN, NOTE, TOPICS, LEVEL, SURE)
    given = {"domain": "code", "note": "  ", "topics": ["b"], "level": 3, "sure": False}
    assert fields.checked(given) == {"domain": "code", "topics": ["b"], "level": 3, "sure": False}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Domain: an answer to this is needed"),
        ({"domain": "verse"}, "Domain: 'verse' is not among"),
        ({"domain": ["code"]}, "Domain"),
        ({"domain": {"code": 1}}, "Domain: neither text"),
        ({"domain": "code", "other": 1}, "no field named other"),
        ({"domain": "code", "topics": ["c"]}, "Topics"),
        ({"domain": "code", "level": 9}, "Level"),
        ({"domain": "code", "level": "many"}, "Level"),
        ({"domain": "code", "note": 3}, "Note: 3 is not among"),
        ({"domain": "code", "note": "x" * 60_000}, "more than 50000 characters"),
        ({"domain": "code", "sure": "yes"}, "Sure"),
    ],
)
def test_what_the_page_does_not_offer_is_refused_by_name(given, said):
    with pytest.raises(LabelError, match=said):
        fields_of(DOMAIN, NOTE, TOPICS, LEVEL, SURE).checked(given)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([(gr.Image, {}, "picture", False)], "Image is none of Radio"),
        ([DOMAIN, DOMAIN], "used once"),
        ([(gr.Radio, {"choices": ["a"]}, "two words", False)], "letters, digits"),
    ],
)
def test_a_page_that_asks_for_what_cannot_be_stored_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        fields_of(*asked)


def test_a_page_has_one_board():
    with gr.Blocks():
        with pytest.raises(InputError, match="has no board"):
            Parts("en").connected()
        parts = Parts("en")
        parts.board()
        with pytest.raises(InputError, match="one board"):
            parts.board()
