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
from annotate.app.site.routes import Place, is_open

T = TypeVar("T")
logger = logging.getLogger("uvicorn.error")
PATIENCE_S = 60.0
BUILDING = "the pages are starting; try again in a second"


class LateApps:
    """Apps by language that `build` makes in a thread, kept alive from then to the end of the server.

    after: others that are made first.
    """

    def __init__(self, build: Callable[[], dict[str, FastAPI]], after: "LateApps | None" = None) -> None:
        self.build = build
        self.after = after
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
        if self.after is not None:
            await asyncio.wait([self.after.start()])
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
    """ASGI middleware: the pages of a place, and of Gradio's routes those in routes.py; everything else passes."""

    def __init__(self, app: Any, *, place: Place, late: LateApps, doorman: Doorman, whole: FastAPI) -> None:
        self.app = app
        self.place = place
        self.late = late
        self.doorman = doorman
        self.whole = whole

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.late.start()
            await self.app(scope, receive, send)
            await self.late.end()
        elif scope["type"] == "http" and scope["path"] in self.place.short:
            query = scope["query_string"].decode("latin-1")
            address = self.place.short[scope["path"]] + (f"?{query}" if query else "")
            await RedirectResponse(address, 307)(scope, receive, send)
        elif (
            scope["type"] == "http"
            and scope["path"] in self.place.pages
            and scope["method"] in ("GET", "HEAD")
        ):
            await (await self._page(scope, receive))(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(f"{self.place.path}/"):
            await self._route(scope, receive, send)
        elif scope["type"] == "http":
            with self.late.courtesy.request():
                await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _page(self, scope: Any, receive: Any) -> Response:
        """A page for who may have it, as soon as Gradio is there; who is not signed in gets the log-in page."""
        scope["app"] = self.whole
        request = Request(scope, receive)
        page = self.place.pages[scope["path"]]
        account = await run_in_threadpool(self.doorman.session_account, request)
        if account is None or not account.at_least(self.place.role) or not self.late.apps:
            starting = {"failed": self.late.failed}
            return await run_in_threadpool(
                shell, request, page, "starting.jinja", role=self.place.role, content=lambda: starting
            )
        theirs = await _answer(outer(scope, self._root_path()), self._gradio(request))
        return await run_in_threadpool(dressed, request, page, self.place, theirs)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        route, method = scope["path"].removeprefix(self.place.path), scope["method"]
        scope["app"] = self.whole
        request = Request(scope, receive)
        answer: Any = None
        if not is_open(method, route):
            answer = await run_in_threadpool(self._refusal, request, route)
        if answer is None and not self.late.apps and "authorization" in request.headers:
            await asyncio.wait(
                [self.late.start()], timeout=PATIENCE_S
            )  # a program does not come again by itself
        if answer is None and not self.late.apps:
            answer = JSONResponse({"detail": BUILDING}, 503, {"Retry-After": "1"})
        if answer is None:
            answer, scope = self._gradio(request), outer(scope, self._root_path())
        await answer(scope, receive, send)

    def _refusal(self, request: Request, route: str) -> Response | None:
        """What those get who may not have a route; None for the others."""
        account = self.doorman.any_account(request)
        if account is None and (self.place.for_leads or self.place.serves(request.method, route)):
            return JSONResponse({"detail": "not signed in"}, 401)
        if account is not None and not account.at_least(self.place.role):
            return JSONResponse({"detail": f"this needs the role {self.place.role}"}, 403)
        if not self.place.serves(request.method, route):
            return JSONResponse({"detail": "there is nothing here"}, 404)
        return None

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
