"""The servers: programs' API alone, or the chat page with it, in the labeling app's shell and behind its guard."""

from fastapi import FastAPI, HTTPException, Request

from annotate.app.identity import Doorman
from annotate.app.security import Guard
from annotate.app.server import create_app
from annotate.app.settings import LOOPBACK, AppSettings
from annotate.chat.api.openai_api import PATHS, openai_router
from annotate.chat.api.protocol import InProtocol
from annotate.chat.checkpoints import Checkpoints
from annotate.chat.page_api import Defaults, page_router
from annotate.labels import LabelStore
from annotate.store.accounts import LOCAL, has_accounts
from rlhf.errors import LabelError
from rlhf.serving.engine_process import EngineProcess


def api_app(
    store: LabelStore, settings: AppSettings, engine: EngineProcess, checkpoints: Checkpoints
) -> FastAPI:
    """/v1 alone. Raises LabelError where it would be open to other machines without accounts."""
    accounts = has_accounts(store.database)
    if not accounts and not settings.local_only:
        raise LabelError(
            f"--host {settings.host} lets other machines in, and there are no accounts yet; make one first: "
            "rlhf labels user add NAME, then a token: rlhf labels token add NAME"
        )
    app = FastAPI(title="rlhf serve", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store, app.state.settings = store, settings
    app.state.doorman = Doorman(store.database, settings)
    app.include_router(openai_router(engine, checkpoints, api_account))
    app.add_middleware(Guard, hosts=() if accounts else LOOPBACK)
    app.add_middleware(InProtocol, paths=("/",))
    return app


def chat_app(
    store: LabelStore,
    settings: AppSettings,
    engine: EngineProcess,
    checkpoints: Checkpoints,
    defaults: Defaults,
) -> FastAPI:
    """The chat page and /v1 beside the labeling pages: one process writes the label store."""
    rooms = (page_router(engine, checkpoints, defaults), openai_router(engine, checkpoints, api_account))
    app = create_app(store, settings, rooms=rooms, home="/chat")
    app.add_middleware(InProtocol, paths=(*PATHS, *(settings.root_path + path for path in PATHS)))
    return app


def api_account(request: Request) -> str:
    """The name behind a request's token; on an app without accounts any token, or none, is the local account's.

    Raises HTTPException 401.
    """
    doorman: Doorman = request.app.state.doorman
    if doorman.open_here():
        return LOCAL
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    account = doorman.token_account(token) if scheme.lower() == "bearer" else None
    if account is None:
        raise HTTPException(401, "the API key is missing, unknown, expired or revoked")
    return account.name
