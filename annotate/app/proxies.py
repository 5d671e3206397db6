"""What proxies say about a request: it counts where a trusted one says it, and is forgotten where anybody else does."""

import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers, MutableHeaders
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rlhf.errors import InputError

ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# First parts of our own paths, below which an app cannot stand: a proxy may take its prefix away or leave it.
TAKEN = frozenset({
    "adjudicate", "api", "chat", "favicon.ico", "history", "label", "lead", "login", "logout", "static", "tasks", "v1"
})  # fmt: skip

CLAIMS = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
# Gradio would believe these; behind a proxy that passes the Host header on, nobody needs them.
NEVER = frozenset(
    {b"forwarded", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix", b"x-real-ip"}
)


def check_proxies(addresses: Sequence[str]) -> None:
    """Raises InputError for what is no address and no network."""
    for address in addresses:
        try:
            ip_network(address)
        except ValueError:
            raise InputError(
                f"--behind-proxy {address}: give the proxy's address or network, such as 127.0.0.1 or 10.0.0.0/24"
            ) from None


class BehindProxy:
    """ASGI middleware: client and scheme are those of the person's browser, as the trusted proxies tell them.

    trusted: their addresses or networks. name_header: where they name who has signed in, empty for nowhere. From
    anybody else all this is taken out of the request, so that nothing behind this can believe it.
    """

    def __init__(self, app: Any, *, trusted: Sequence[str], name_header: str = "") -> None:
        self.told = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))
        self.claims = CLAIMS | ({name_header.lower().encode()} if name_header else set())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            peer = scope["client"][0] if scope.get("client") else None
            refused = NEVER if peer in self.told.trusted_hosts else NEVER | self.claims
            kept = [(name, value) for name, value in scope["headers"] if name.lower() not in refused]
            scope = {**scope, "headers": kept}
        await self.told(scope, receive, send)


def check_root_path(path: str) -> None:
    """Raises InputError for what is neither empty nor a path that an app can stand below."""
    if path and (not ROOT_PATH.fullmatch(path) or path.split("/")[1] in TAKEN):
        taken = ", ".join(sorted(TAKEN))
        raise InputError(f"--root-path {path}: give a path such as /labels; it begins with none of {taken}")


def outer(scope: Any, root_path: str) -> Any:
    """A request as an app wants it that knows where it stands, such as Gradio's: with the path that the browser asked for."""
    return {**scope, "root_path": root_path, "path": root_path + scope["path"]} if root_path else scope


class UnderPath:
    """ASGI middleware: an app that stands below a path of its host knows nothing of it.

    Taken off requests where the proxy has left it, put before the paths of redirections. Links and cookies have it from
    the settings.
    """

    def __init__(self, app: Any, *, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.root_path or scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self._is_below(scope["path"]):
            inner = scope["path"].removeprefix(self.root_path) or "/"
            scope = {**scope, "path": inner}
        host = Headers(scope=scope).get("host", "")

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = self._outer(headers["location"], host)
            await send(message)

        await self.app(scope, receive, sending)

    def _is_below(self, path: str) -> bool:
        return path == self.root_path or path.startswith(f"{self.root_path}/")

    def _outer(self, location: str, host: str) -> str:
        parts = urlsplit(location)
        if parts.netloc not in ("", host) or not parts.path.startswith("/") or self._is_below(parts.path):
            return location
        return urlunsplit(parts._replace(path=self.root_path + parts.path))
