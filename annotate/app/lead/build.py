"""A lead's pages as gr.Blocks, once in each language. Importing this takes seconds."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from fastapi import FastAPI

from annotate.app.components.page_part import PagePart
from annotate.app.lead.batches_page import BatchesPage
from annotate.app.lead.dashboard_page import DashboardPage
from annotate.app.lead.desk import Desk
from annotate.app.lead.forms import Forms
from annotate.app.lead.people_page import PeoplePage
from annotate.app.site.build import app_of, one_at_a_time, private_uploads
from annotate.app.site.routes import LEAD
from annotate.app.texts import languages


def lead_apps(shared: Any) -> dict[str, FastAPI]:
    """A lead's pages by language. shared: the whole app's state (store, settings, doorman, sampler, computed figures)."""
    private_uploads(shared)
    apps = {}
    for language in languages():
        with one_at_a_time:
            blocks = lead_pages(Desk(shared, language))
        apps[language] = app_of(blocks, shared, LEAD)
    return apps


def lead_pages(desk: Desk) -> gr.Blocks:
    """The list of batches, and beside it every other page of LEAD."""
    others = _others(desk)
    with gr.Blocks(title=desk.lead["title"], analytics_enabled=False) as blocks:
        BatchesPage(desk).build(blocks)
    for address, name in LEAD.pages.items():
        if name in others:
            with blocks.route(desk.lead[name], address.removeprefix(LEAD.path), show_in_navbar=False):
                others[name](blocks)
    return blocks


def _others(desk: Desk) -> Mapping[str, Callable[[gr.Blocks], None]]:
    """What makes each page but the first, by its name."""
    forms = Forms(desk)
    return {
        "dashboard": DashboardPage(desk).build,
        "review": _review,
        "new_batch": forms.new_batch,
        "settings": forms.settings,
        "export": forms.export,
        "people": PeoplePage(desk).build,
    }


def _review(blocks: gr.Blocks) -> None:
    """Disagreements; verdicts go to the REST endpoint, as the labelers' answers do, and so outlast a lost connection."""
    PagePart("review")
