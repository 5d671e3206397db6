"""What proxies say about a request: it counts where a trusted one says it, and is forgotten where anybody else does."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rlhf.errors import InputError

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
