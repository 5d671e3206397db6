"""The labeling app: FastAPI over the label store; the lead's forms by Gradio stand behind the same guard."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from annotate.app import assets, pages, work_api
from annotate.app.identity import Doorman
from annotate.app.lead import api as lead_api
from annotate.app.lead import pages as lead_pages
from annotate.app.lead.forms_mount import UPLOAD_PATHS, FormsMount, forms_app
from annotate.app.lead.new_batch import Sampler
from annotate.app.proxies import BehindProxy
from annotate.app.security import Guard
from annotate.app.settings import LOOPBACK, AppSettings
from annotate.app.stopping import run_until_stopped
from annotate.figures.computed import Computed
from annotate.labels import LabelStore
from annotate.store.accounts import has_accounts
from annotate.store.database import DatabaseDown
from annotate.work.webhooks import deliver_due
from rlhf.errors import InputError, LabelError, RLHFError

WEBHOOKS_EVERY_S = 1.0


def create_app(
    store: LabelStore,
    settings: AppSettings,
    *,
    rooms: Sequence[APIRouter] = (),
    home: str = "/",
    sampler: Sampler | None = None,
) -> FastAPI:
    """The app over an open store; rooms: routers of other pages beside these, home: the path that / leads to.

    sampler: what live batches get their answers from.

    Raises LabelError where it would be open to other machines without accounts.
    """
    accounts = has_accounts(store.database)
    if not accounts and not settings.local_only and not settings.proxy_header:
        opening = "--behind-proxy" if settings.behind_proxy else f"--host {settings.host}"
        raise LabelError(
            f"{opening} lets other machines in, and there are no accounts yet; make one first: "
            "rlhf labels user add NAME --role admin"
        )
    app = FastAPI(
        title="rlhf label", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=_lifespan
    )
    app.state.store, app.state.settings, app.state.home = store, settings, home
    app.state.doorman = Doorman(store.database, settings)
    app.state.computed, app.state.sampler = Computed(store.database), sampler
    for room in rooms:
        app.include_router(room)
    app.include_router(pages.router)
    app.include_router(lead_pages.router)
    app.include_router(work_api.router)
    app.include_router(lead_api.router)
    for place, folder in assets.folders().items():
        app.mount(f"{assets.address()}{place}", StaticFiles(directory=folder))
    app.add_exception_handler(RLHFError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    hosts = LOOPBACK if settings.local_only and not accounts else ()
    app.add_middleware(FormsMount, build=lambda: forms_app(store, app.state))
    app.add_middleware(
        Guard,
        gradio_path=f"{pages.FORMS_PATH}/",
        upload_paths=("/api/lead/upload", *UPLOAD_PATHS),
        max_upload=settings.max_upload,
        hosts=hosts,
    )
    app.add_middleware(
        BehindProxy, trusted=settings.trusted_proxies, name_header=settings.proxy_header
    )  # the outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Webhooks are delivered by a thread of their own, as long as the app runs."""
    ended = threading.Event()
    thread = threading.Thread(target=_deliver, args=(app.state.store, ended), daemon=True)
    thread.start()
    yield
    ended.set()
    app.state.computed.close()
    thread.join(timeout=1)


def _deliver(store: LabelStore, ended: threading.Event) -> None:
    while not ended.wait(WEBHOOKS_EVERY_S):
        try:
            deliver_due(store.database)
        except LabelError:
            continue  # the database is away for now; notices wait in it


async def _refused(request: Request, error: Any) -> JSONResponse:
    """503 while the database is away, so that a page keeps its draft and tries again; 409 for what is refused."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, DatabaseDown) else 409)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"detail": f"{where}: {first['msg']}"}, 422)


def serve(
    app: FastAPI,
    say: Callable[[str], None],
    what: str = "labeling",
    patience_s: float = 5.0,
    out_of_patience: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, as one process: the store has one writer.

    What is under way then has `patience_s` to end by itself; `out_of_patience` is called after that. Raises InputError
    for an address in use.
    """
    settings, store = app.state.settings, app.state.store
    listener = _listener(settings)
    say(f"{what} at http://{settings.host}:{listener.getsockname()[1]}/ (Ctrl-C ends it)")
    if not has_accounts(store.database) and not settings.proxy_header:
        say(
            "no accounts: only this machine can reach it, as administrator; rlhf labels user add NAME makes one"
        )
    run_until_stopped(app, listener, say, patience_s, out_of_patience)


def _listener(settings: AppSettings) -> socket.socket:
    """Listening already, so that who reads the address can connect at once and waits until the app has started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise InputError(
            f"{settings.host}:{settings.port}: {reason}; choose another --host or --port"
        ) from None
    return listener
