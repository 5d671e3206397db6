"""Gradio, built when a lead first comes: importing it takes seconds, and a restarted server owes labelers an answer."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from annotate.app import assets
from annotate.app.identity import Doorman
from annotate.app.pages import FORMS_PATH
from annotate.app.proxies import outer
from annotate.app.texts import languages
from annotate.labels import LabelStore

THEME = """() => {
    const chosen = localStorage.getItem("rlhf-theme");  // as on our other pages; otherwise the system's
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
}"""
# As in static/app.css, light and dark.
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
UPLOAD_PATHS = tuple(f"{FORMS_PATH}/{language}/gradio_api/upload" for language in languages())


class FormsMount:
    """ASGI middleware: requests under FORMS_PATH/ go to the app that `build` makes, all others pass."""

    def __init__(self, app: Any, build: Callable[[], FastAPI], root_path: str = "") -> None:
        self.app = app
        self.build = build
        self.root_path = root_path
        self.lock = asyncio.Lock()
        self.over = asyncio.Event()
        self.pages: FastAPI | None = None
        self.lifetime: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{FORMS_PATH}/"):
            await (await self._built())(outer(scope, self.root_path), receive, send)
            return
        await self.app(scope, receive, send)
        if scope["type"] == "lifespan" and self.lifetime is not None:  # the server has ended
            self.over.set()
            await self.lifetime

    async def _built(self) -> FastAPI:
        async with self.lock:
            if self.pages is None:
                pages = await asyncio.to_thread(self.build)
                started = asyncio.Event()
                self.lifetime = asyncio.create_task(self._live(pages, started))
                await started.wait()
                self.pages = pages
        return self.pages

    async def _live(self, pages: FastAPI, started: asyncio.Event) -> None:
        """The built app's own start and end, in one task as it wants them."""
        async with pages.router.lifespan_context(pages):
            started.set()
            await self.over.wait()


def forms_app(store: LabelStore, shared: Any) -> FastAPI:
    """The lead's forms, once in each language, behind a check of who asks for every single route of them.

    shared: the whole app's state (settings, doorman, sampler).
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    uploads = tempfile.TemporaryDirectory(prefix="rlhf-uploads-")  # of this process only, and gone with it
    os.environ["GRADIO_TEMP_DIR"] = uploads.name
    import gradio as gr

    from annotate.app.lead.forms import Forms

    app, root = FastAPI(openapi_url=None), shared.settings.root_path
    app.state.uploads = uploads
    app.add_middleware(LeadsOnly, doorman=shared.doorman)
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(**COLORS)
    for language in languages():
        gr.mount_gradio_app(
            app,
            Forms(store, language, shared.sampler, root).blocks(),
            path=f"{FORMS_PATH}/{language}",
            root_path=f"{root}{FORMS_PATH}/{language}",
            auth_dependency=lambda request: _lead_name(shared.doorman, request),
            theme=theme,
            css_paths=[assets.folders()[""] / "forms.css"],
            js=THEME,
            max_file_size=shared.settings.max_upload,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            show_error=True,
        )
    return app


class LeadsOnly:
    """ASGI middleware: of Gradio's routes, some of which skip its own check, none answers anybody but a lead."""

    def __init__(self, app: Any, doorman: Doorman) -> None:
        self.app = app
        self.doorman = doorman

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "/gradio_api/" in scope["path"]:
            try:
                await asyncio.to_thread(_lead_name, self.doorman, Request(scope))
            except HTTPException as error:
                refusal = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _lead_name(doorman: Doorman, request: Request) -> str:
    account = doorman.session_account(request)
    if account is None:
        raise HTTPException(303, headers={"Location": f"/login?next={quote(request.url.path)}"})
    if not account.at_least("lead"):
        raise HTTPException(403, "this needs the role lead")
    return account.name
