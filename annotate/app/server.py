"""The labeling app: FastAPI over the label store, and Gradio's pages behind the same guard."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from annotate.app.assets import static_address, static_folders
from annotate.app.identity import LOG, Doorman
from annotate.app.lead import api as lead_api
from annotate.app.lead.new_batch import Sampler
from annotate.app.pages import router as pages_router
from annotate.app.proxies import BehindProxy, UnderPath, check_proxies, check_root_path
from annotate.app.security import Guard
from annotate.app.settings import LOOPBACK, AppSettings, Page
from annotate.app.site.fields import Fields
from annotate.app.site.mount import LateApps, Site
from annotate.app.site.routes import LEAD, SITE, UPLOAD
from annotate.app.stopping import run_until_stopped
from annotate.app.work_api import router as work_router
from annotate.figures.computed import Computed
from annotate.labels import LabelStore
from annotate.store.accounts import has_accounts
from annotate.store.database import DatabaseDown, storable
from annotate.work.webhooks import deliver_due
from rlhf.errors import InputError, LabelError, RLHFError

WEBHOOKS_EVERY_S = 2.0
WRITE_PATIENCE_S = 4.0  # a page that gets no turn in this time keeps what it has and asks again
UNCOMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream")  # downloads, compressed or not


def create_app(
    store: LabelStore,
    settings: AppSettings,
    *,
    rooms: Sequence[APIRouter] = (),
    home: str = f"{SITE.path}/tasks",
    sampler: Sampler | None = None,
    page: Page | None = None,
) -> FastAPI:
    """The app over an open store; rooms: routers of other pages beside these, home: the path that / leads to.

    sampler: what live batches get their answers from. page: makes the labelers' page (site/parts.py).

    Raises LabelError where it would be open to other machines without accounts, InputError for settings that cannot be.
    """
    check_proxies(settings.behind_proxy)
    check_root_path(settings.root_path)
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
    store.database.patience_s = WRITE_PATIENCE_S
    app.state.store, app.state.settings, app.state.home = store, settings, home
    app.state.doorman = Doorman(store.database, settings)
    app.state.computed, app.state.sampler = Computed(store.database), sampler
    app.state.fields = None if page else Fields()  # of a page of one's own they are known once it is built
    for room in rooms:
        app.include_router(room)
    app.include_router(pages_router)
    app.include_router(work_router)
    app.include_router(lead_api.router)
    for place, folder in static_folders().items():
        app.mount(f"{static_address()}{place}", StaticFiles(directory=folder))
    app.add_exception_handler(RLHFError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    hosts = LOOPBACK if settings.local_only and not accounts else ()
    labelers = LateApps(lambda: _site_apps(page, app.state))
    leads = LateApps(lambda: _lead_apps(app.state), after=labelers)
    for its, late in ((SITE, labelers), (LEAD, leads)):
        app.add_middleware(Site, place=its, late=late, doorman=app.state.doorman, whole=app)
    app.add_middleware(GZipMiddleware, compresslevel=5, exclude_content_types=UNCOMPRESSED)
    app.add_middleware(
        Guard,
        gradio_paths=(f"{SITE.path}/", f"{LEAD.path}/"),
        upload_paths=("/api/lead/upload", LEAD.path + UPLOAD),
        max_upload=settings.max_upload,
        hosts=hosts,
    )
    app.add_middleware(UnderPath, root_path=settings.root_path)
    app.add_middleware(BehindProxy, trusted=settings.trusted_proxies, name_header=settings.proxy_header)
    return app


def _site_apps(page: Page | None, shared: Any) -> dict[str, FastAPI]:
    from annotate.app.site.build import site_apps  # Gradio, which takes seconds
    from annotate.app.site.parts import default_page

    return site_apps(page or default_page, shared)


def _lead_apps(shared: Any) -> dict[str, FastAPI]:
    from annotate.app.lead.build import lead_apps

    return lead_apps(shared)


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
        except Exception:
            LOG.exception("webhooks: trying again")


async def _refused(request: Request, error: Any) -> JSONResponse:
    """503 while the database is away, so that a page keeps its draft and tries again; 409 for what is refused."""
    detail = storable(str(error))  # it may name what was sent, and half a surrogate pair is no UTF-8
    return JSONResponse({"detail": detail}, 503 if isinstance(error, DatabaseDown) else 409)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"detail": storable(f"{where}: {first['msg']}")}, 422)


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
    # By its name: asyncio turns Nagle's algorithm off, 40 ms for each small request, for what says that it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()
    except (OSError, OverflowError, TypeError) as error:  # in use; no port; no name of a host
        listener.close()
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InputError(
            f"{settings.host}:{settings.port}: {reason}; choose another --host or --port"
        ) from None
    return listener
