"""Where Gradio's pages stand, and which of its routes are served. Whatever is not named here is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# Below the place where Gradio is mounted. Files of the server, proxies, deep links, streams, monitoring, MCP, run
# history, profiling, recordings and everything that comes with a later version are not among them.
_OPEN = re.compile(r"/(assets|static)/.+|/theme\.css|/gradio_api/theme\.css")
_FOR_ACCOUNTS = {
    "GET": re.compile(
        r"/config/?|/gradio_api/(info/?|startup-events|queue/data|heartbeat/\w+"
        r"|call/[\w.-]+/\w+|custom_component/[0-9a-f]+/client/component/[\w.]+)"
    ),
    "POST": re.compile(r"/gradio_api/((run|api|call|call/v2)/[\w.-]+/?|queue/join|cancel|reset/?)"),
}
UPLOAD = "/gradio_api/upload"
_UPLOADS = {("POST", UPLOAD), ("GET", f"{UPLOAD}_progress")}


def is_open(method: str, route: str) -> bool:
    """Whether anybody may have a route of Gradio's: its scripts, styles and pictures, the same for everybody."""
    return method in ("GET", "HEAD") and _OPEN.fullmatch(route) is not None


def is_for_accounts(method: str, route: str) -> bool:
    """Whether who is signed in may have a route of Gradio's: settings of the page and events."""
    pattern = _FOR_ACCOUNTS.get(method)
    return pattern is not None and pattern.fullmatch(route) is not None


@dataclass(frozen=True, eq=False)
class Place:
    """Gradio pages below one path. pages: their names by address; Gradio's scripts know a page by its address below the
    mount, our own by name. short: other addresses that lead there. for_leads: nobody else gets more than what is open;
    leads may upload files.
    """

    path: str
    pages: Mapping[str, str]
    short: Mapping[str, str] = field(default_factory=dict)
    for_leads: bool = False

    @property
    def role(self) -> str:
        """The least role that has these pages."""
        return "lead" if self.for_leads else "labeler"

    def serves(self, method: str, route: str) -> bool:
        """Whether who has the role may have a route of Gradio's below this place."""
        return is_for_accounts(method, route) or (self.for_leads and (method, route) in _UPLOADS)


SITE = Place(
    "/label",
    {"/label/": "label", "/label/tasks": "tasks", "/label/history": "history"},
    {"/label": "/label/", "/tasks": "/label/tasks", "/history": "/label/history"},
)
LEAD = Place(
    "/lead",
    {
        "/lead/": "batches",
        "/lead/dashboard": "dashboard",
        "/lead/review": "review",
        "/lead/new": "new_batch",
        "/lead/settings": "settings",
        "/lead/export": "export",
        "/lead/people": "people",
    },
    {"/lead": "/lead/", "/adjudicate": "/lead/review"},
    for_leads=True,
)
