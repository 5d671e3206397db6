"""The checkpoints as a server: OpenAI's protocol alone, or with the chat page."""

from collections.abc import Callable
from typing import Any

from annotate.app.server import serve
from annotate.app.settings import AppSettings
from annotate.chat.checkpoints import Checkpoints
from annotate.chat.page_api import Defaults
from annotate.chat.server import api_app, chat_app
from annotate.labels import LabelStore
from rlhf.errors import InputError
from rlhf.models.sources import find_source
from rlhf.serving.engine_process import EngineProcess
from rlhf.store import STAGES, Store
from stages.talk.conversation import SAMPLING
from stages.talking_settings import ChatSettings, ServeSettings

PATIENCE_S = 25.0  # for answers under way when the server is told to end; container managers kill after 30


def run(settings: ServeSettings, store: Store, labels_url: str, say: Callable[[str], None]) -> None:
    """Serve /v1 until Ctrl-C."""
    checkpoints = _checkpoints(store, settings.policy)
    with (
        LabelStore(labels_url) as labels,
        EngineProcess(
            max_rows=settings.answers_at_once,
            max_waiting=settings.max_waiting,
            precision=settings.precision,
            template_kwargs=_template_kwargs(settings, checkpoints),
        ) as engine,
    ):
        app_settings = AppSettings(host=settings.host, port=settings.port)
        app = api_app(labels, app_settings, engine, checkpoints)
        serve(app, say, "chat completions", PATIENCE_S, engine.close)


def run_page(
    settings: ChatSettings, store: Store, labels_url: str, say: Callable[[str], None], **proxy: Any
) -> None:
    """Serve the chat page until Ctrl-C. proxy: behind_proxy, proxy_header and root_path of AppSettings.

    Raises InputError for offload, which is for one person at a terminal.
    """
    if settings.offload:
        raise InputError(
            "--offload answers one request at a time, at the terminal: leave --web or --offload out"
        )
    outside = settings.policy.split("/")[0].split(":")[0] not in STAGES
    checkpoints = _checkpoints(store, settings.policy if outside else None)
    given = _template_kwargs(settings, checkpoints)
    with (
        LabelStore(labels_url) as labels,
        EngineProcess(precision=settings.precision, template_kwargs=given) as engine,
    ):
        app_settings = AppSettings(host=settings.host, port=settings.port, **proxy)
        app = chat_app(labels, app_settings, engine, checkpoints, _defaults(settings, checkpoints))
        serve(app, say, "chat", PATIENCE_S, engine.close)


def _defaults(settings: ChatSettings, checkpoints: Checkpoints) -> Defaults:
    """What a new conversation on the page begins with. Raises InputError for a checkpoint that is not there.

    Without --policy the page takes the newest of what there is, which need not be of PPO.
    """
    chosen = None if settings.policy == ChatSettings.policy else checkpoints.named(settings.policy).name
    sampling = {name: getattr(settings, name) for name in SAMPLING}
    return Defaults(chosen, settings.system or "", sampling | {"seed": settings.seed or None})


def _checkpoints(store: Store, other: str | None) -> Checkpoints:
    """The store's and another, of which InputError is raised now, not to the first who asks it, where it is not there."""
    if other:
        find_source(other)
    return Checkpoints(store, [other] if other else [])


def _template_kwargs(settings: ServeSettings | ChatSettings, checkpoints: Checkpoints) -> dict[str, str]:
    """What chat templates are given, by the folder of the model. Raises InputError for what is none, or is nobody's."""
    if not settings.template_kwargs:
        return {}
    from rlhf.models.chat_template import parse_arguments

    parse_arguments(settings.template_kwargs)
    if not settings.policy:
        raise InputError("template_kwargs: name the model that they are for with --policy")
    return {checkpoints.named(settings.policy).folder: settings.template_kwargs}
