"""Gradio, built when a lead first comes: importing it takes seconds, and a restarted server owes labelers an answer."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from annotate.app.assets import static_folders
from annotate.app.identity import Doorman
from annotate.app.pages import FORMS_PATH
from annotate.app.proxies import outer
from annotate.app.site.routes import is_for_accounts, is_open
from annotate.app.texts import languages
from annotate.labels import LabelStore

THEME = """() => {
    const chosen = localStorage.getItem("rlhf-theme");  // as on our other pages; otherwise the system's
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
}"""
UPLOADS = (("POST", "/gradio_api/upload"), ("GET", "/gradio_api/upload_progress"))
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
    import gradio as gr

    from annotate.app.lead.forms import Forms
    from annotate.app.site.build import mounted, one_at_a_time, private_uploads, rest_when_idle

    private_uploads(shared)
    app, root = FastAPI(openapi_url=None), shared.settings.root_path
    app.add_middleware(LeadsOnly, doorman=shared.doorman)
    for language in languages():
        with one_at_a_time:
            blocks = Forms(store, language, shared.sampler, root).blocks()
        gr.mount_gradio_app(
            app,
            blocks,
            path=f"{FORMS_PATH}/{language}",
            root_path=f"{root}{FORMS_PATH}/{language}",
            auth_dependency=lambda request: _lead_name(shared.doorman, request),
            css_paths=[static_folders()[""] / "forms.css"],
            js=THEME,
            **mounted(shared),
        )
        rest_when_idle(blocks)
    return app


class LeadsOnly:
    """ASGI middleware: of Gradio's routes, some of which skip its own check, none answers anybody but a lead.

    And no lead gets one that is neither in site/routes.py nor needed for an upload.
    """

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
            route = scope["path"][scope["path"].index("/gradio_api/") :]
            if not _is_needed(scope["method"], route):
                await JSONResponse({"detail": "there is nothing here"}, 404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_needed(method: str, route: str) -> bool:
    return is_open(method, route) or is_for_accounts(method, route) or (method, route) in UPLOADS


def _lead_name(doorman: Doorman, request: Request) -> str:
    account = doorman.session_account(request)
    if account is None:
        raise HTTPException(303, headers={"Location": f"/login?next={quote(request.url.path)}"})
    if not account.at_least("lead"):
        raise HTTPException(403, "this needs the role lead")
    return account.name
