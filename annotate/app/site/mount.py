"""Gradio behind a server that listens at once: it is built in a thread, and pages wait for it by themselves."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from annotate.app.identity import Doorman
from annotate.app.pages import language_of, shell
from annotate.app.proxies import outer
from annotate.app.site.courtesy import Courtesy
from annotate.app.site.dressing import dressed
from annotate.app.site.routes import PAGES, SHORT, SITE_PATH, is_for_accounts, is_open

T = TypeVar("T")
logger = logging.getLogger("uvicorn.error")
PATIENCE_S = 60.0
BUILDING = "the pages are starting; try again in a second"


class LateApps:
    """Apps that `build` makes in a thread, kept alive from then to the end of the server."""

    def __init__(self, build: Callable[[], dict[str, FastAPI]]) -> None:
        self.build = build
        self.apps: dict[str, FastAPI] = {}
        self.failed = False
        self.over = asyncio.Event()
        self.courtesy = Courtesy()
        self.making: asyncio.Task[None] | None = None
        self.lifetimes: list[asyncio.Task[None]] = []

    def start(self) -> asyncio.Task[None]:
        """Begin to build, unless it has begun; the task ends with the apps there."""
        if self.making is None:
            self.making = asyncio.create_task(self._make())
        return self.making

    async def end(self) -> None:
        self.over.set()
        if self.making is not None:
            self.making.cancel()
        await asyncio.gather(*self.lifetimes)

    async def _make(self) -> None:
        try:
            apps = await _in_daemon(self._politely)
        except Exception:
            logger.exception("the pages could not be built")
            self.failed = True
            return
        for app in apps.values():
            started = asyncio.Event()
            self.lifetimes.append(asyncio.create_task(self._live(app, started)))
            await started.wait()
        self.apps = apps

    def _politely(self) -> dict[str, FastAPI]:
        with self.courtesy.polite():
            return self.build()

    async def _live(self, app: FastAPI, started: asyncio.Event) -> None:
        """A built app's own start and end, in one task as it wants them."""
        async with app.router.lifespan_context(app):
            started.set()
            await self.over.wait()


class Site:
    """ASGI middleware: the labelers' pages, of Gradio's routes those in routes.py; everything else passes."""

    def __init__(self, app: Any, *, late: LateApps, doorman: Doorman, whole: FastAPI) -> None:
        self.app = app
        self.late = late
        self.doorman = doorman
        self.whole = whole

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.late.start()
            await self.app(scope, receive, send)
            await self.late.end()
        elif scope["type"] == "http" and scope["path"] in SHORT:
            query = scope["query_string"].decode("latin-1")
            address = SHORT[scope["path"]] + (f"?{query}" if query else "")
            await RedirectResponse(address, 307)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in PAGES and scope["method"] in ("GET", "HEAD"):
            await (await self._page(scope, receive))(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(f"{SITE_PATH}/"):
            await self._route(scope, receive, send)
        elif scope["type"] == "http":
            with self.late.courtesy.request():
                await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _page(self, scope: Any, receive: Any) -> Response:
        """A page for whoever is signed in, as soon as Gradio is there; who is not gets the log-in page."""
        scope["app"] = self.whole
        request = Request(scope, receive)
        page = PAGES[scope["path"]]
        signed_in = await run_in_threadpool(self.doorman.session_account, request)
        if signed_in is None or not self.late.apps:
            failed = {"failed": self.late.failed}
            return await run_in_threadpool(shell, request, page, "starting.jinja", content=lambda: failed)
        theirs = await _answer(outer(scope, self._root_path()), self._gradio(request))
        return await run_in_threadpool(dressed, request, page, theirs)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        route, method = scope["path"].removeprefix(SITE_PATH), scope["method"]
        scope["app"] = self.whole
        request = Request(scope, receive)
        answer: Any = None
        if not is_open(method, route):
            if not is_for_accounts(method, route):
                answer = JSONResponse({"detail": "there is nothing here"}, 404)
            elif await run_in_threadpool(self.doorman.any_account, request) is None:
                answer = JSONResponse({"detail": "not signed in"}, 401)
        if answer is None and not self.late.apps and "authorization" in request.headers:
            await asyncio.wait(
                [self.late.start()], timeout=PATIENCE_S
            )  # a program does not come again by itself
        if answer is None and not self.late.apps:
            answer = JSONResponse({"detail": BUILDING}, 503, {"Retry-After": "1"})
        if answer is None:
            answer, scope = self._gradio(request), outer(scope, self._root_path())
        await answer(scope, receive, send)

    def _root_path(self) -> str:
        return str(self.whole.state.settings.root_path)

    def _gradio(self, request: Request) -> FastAPI:
        """The pages in the reader's language; their parts and events have the same numbers in each."""
        return self.late.apps[language_of(request)]


async def _in_daemon(build: Callable[[], T]) -> T:
    """What a function gives, run by a thread that a server which is told to end does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(act: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            act(value)

    def tell(act: Callable[[Any], None], value: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, act, value)

    def run() -> None:
        try:
            result = build()
        except Exception as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return await done


async def _answer(scope: Any, app: FastAPI) -> bytes:
    """The body of what an app answers to a GET. Raises HTTPException where it refuses."""
    status, body = 500, b""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    await app({**scope, "method": "GET", "headers": headers}, receive, send)
    if status != 200:
        raise HTTPException(status, "Gradio refused a page of ours")
    return body
