"""Which of Gradio's routes are served, and where the labelers' pages stand. Whatever is not named here is refused."""

import re

SITE_PATH = "/label"
# Gradio's scripts know a page by its address below the mount; our own know it by name.
PAGES = {f"{SITE_PATH}/": "label", f"{SITE_PATH}/tasks": "tasks", f"{SITE_PATH}/history": "history"}
SHORT = {SITE_PATH: f"{SITE_PATH}/", "/tasks": f"{SITE_PATH}/tasks", "/history": f"{SITE_PATH}/history"}
# Below the place where Gradio is mounted. Files of the server, uploads, proxies, deep links, streams, monitoring, MCP, run
# history, profiling, recordings and everything that comes with a later version are not among them.
_OPEN = re.compile(r"/(assets|static)/.+|/theme\.css|/gradio_api/theme\.css")
_FOR_ACCOUNTS = {
    "GET": re.compile(
        r"/config/?|/gradio_api/(info/?|startup-events|queue/data|heartbeat/\w+"
        r"|call/[\w.-]+/\w+|custom_component/[0-9a-f]+/client/component/[\w.]+)"
    ),
    "POST": re.compile(r"/gradio_api/((run|api|call|call/v2)/[\w.-]+/?|queue/join|cancel|reset/?)"),
}


def is_open(method: str, route: str) -> bool:
    """Whether anybody may have a route of Gradio's: its scripts, styles and pictures, the same for everybody."""
    return method in ("GET", "HEAD") and _OPEN.fullmatch(route) is not None


def is_for_accounts(method: str, route: str) -> bool:
    """Whether who is signed in may have a route of Gradio's: settings of the page and events."""
    pattern = _FOR_ACCOUNTS.get(method)
    return pattern is not None and pattern.fullmatch(route) is not None
