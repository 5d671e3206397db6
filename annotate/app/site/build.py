"""Pages as gr.Blocks, once in each language, behind a check of who asks; the labelers' are here. Importing this takes seconds."""

import inspect
import os
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib.pyplot  # noqa: F401  for figures; every event of Gradio looks at it, and fails while it is half imported
from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles

from annotate.app.components.page_part import PagePart
from annotate.app.components.ranking_board import RankingBoard
from annotate.app.identity import Doorman
from annotate.app.lead.endpoints import LeadEndpoints
from annotate.app.settings import Page
from annotate.app.site.endpoints import Endpoints
from annotate.app.site.fields import Fields
from annotate.app.site.parts import Parts
from annotate.app.site.routes import SITE, Place
from annotate.app.texts import languages, texts

# What Gradio's components are put into is one variable for all threads, so pages are made by one of them at a time.
one_at_a_time = threading.Lock()
IDLE_S = 1.0  # how often Gradio's queue looks for events; its own twenty times a second take 7 % of a core
COLORS = {
    "body_background_fill": "#f4f5f7",
    "body_background_fill_dark": "#121519",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#1c2026",
    "border_color_primary": "#d4d8de",
    "border_color_primary_dark": "#363c45",
    "button_primary_background_fill": "#1f57b8",
    "button_primary_background_fill_hover": "#1a4a9c",
    "button_primary_background_fill_dark": "#8db4ff",
    "button_primary_background_fill_hover_dark": "#a9c6ff",
    "button_primary_text_color_dark": "#0d1a33",
}


def site_apps(page: Page, shared: Any) -> dict[str, FastAPI]:
    """The labelers' pages by language. shared: the whole app's state (settings, doorman), which learns the page's fields."""
    private_uploads(shared)
    apps = {}
    for language in languages():
        with one_at_a_time:
            blocks, fields = site(page, language, shared)
        apps[language] = app_of(blocks, shared, SITE)
    shared.fields = fields
    return apps


def site(page: Page, language: str, shared: Any) -> tuple[gr.Blocks, Fields]:
    """The page of tasks to work on, made by `page`, and beside it the list of batches and one's own answers.

    Endpoints for programs stand in it too: the page itself uses none of them.
    """
    words = texts(language)
    with gr.Blocks(title=words["page"]["title"], analytics_enabled=False) as blocks:
        parts = Parts(language)
        page(parts)
        fields = parts.connected()
        Endpoints(shared).offer()
        LeadEndpoints(shared).offer()
    with blocks.route(words["home"]["title"], "/tasks", show_in_navbar=False):
        PagePart("tasks")
    with blocks.route(words["history"]["title"], "/history", show_in_navbar=False):
        PagePart("history")
    return blocks, fields


def app_of(blocks: gr.Blocks, shared: Any, place: Place) -> FastAPI:
    """Pages in one language, which answer events of those alone who have the place's role."""
    app = FastAPI(openapi_url=None)
    for component in (
        PagePart,
        RankingBoard,
    ):  # as Gradio would serve them, but for a line on stdout for each file
        files = Path(inspect.getfile(component)).parent / "templates" / "component"
        address = (
            f"{place.path}/gradio_api/custom_component/{component.get_component_class_id()}/client/component"
        )
        app.mount(address, StaticFiles(directory=files))
    warnings.filterwarnings("ignore", "SSR mode is not supported")  # said of every app with several pages
    gr.mount_gradio_app(
        app,
        blocks,
        path=place.path,
        root_path=shared.settings.root_path + place.path,
        auth_dependency=lambda request: account_name(shared.doorman, request, place.role),
        **_looks(shared),
    )
    _rest_when_idle(blocks)
    return app


def _looks(shared: Any) -> dict[str, Any]:
    """In our colours, without what nobody here needs."""
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(**COLORS)
    return {
        "theme": theme,
        "max_file_size": shared.settings.max_upload,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "show_error": True,
    }


def _rest_when_idle(blocks: gr.Blocks) -> None:
    """Have the queue look for events once a second."""
    blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = IDLE_S


def private_uploads(shared: Any) -> None:
    """Uploads go into a folder of this process, which is gone with it; nothing is told to Gradio's makers."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if getattr(shared, "uploads", None) is None:
        shared.uploads = tempfile.TemporaryDirectory(prefix="rlhf-uploads-")
        os.environ["GRADIO_TEMP_DIR"] = shared.uploads.name


def account_name(doorman: Doorman, request: Request, role: str) -> str:
    """Who asks, for Gradio's handlers. Raises 401, and 403 for who has less than the role."""
    account = doorman.any_account(request)
    if account is None:
        raise HTTPException(401, "not signed in")
    if not account.at_least(role):
        raise HTTPException(403, f"this needs the role {role}")
    return account.name
