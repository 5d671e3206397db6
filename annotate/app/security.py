"""What guards every request before a page sees it: size, origin, host; and the headers every answer carries."""

import hashlib
import hmac
import json
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY = 4 * 2**20
# Nothing inline, nothing from elsewhere; Gradio's pages bring a policy of their own (site/dressing.py).
STRICT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def csrf_token(session_token: str) -> str:
    """What a page of this session sends along with every change: whoever knows it has read a page of the session."""
    return hashlib.sha256(b"csrf:" + session_token.encode()).hexdigest()


def is_csrf_token(given: str | None, session_token: str) -> bool:
    return hmac.compare_digest((given or "").encode(), csrf_token(session_token).encode())


class Guard:
    """ASGI middleware: refuses what no page of ours asks for, and adds the headers.

    Refused are bodies over MAX_BODY (`max_upload` bytes under `upload_paths`), changes that a page of another site asks
    for, and with `hosts` any other Host: a page elsewhere whose name was pointed at this machine. Scripts of Gradio's stand
    under `gradio_paths`.
    """

    def __init__(
        self,
        app: Any,
        *,
        hosts: Collection[str] = (),
        gradio_paths: tuple[str, ...] = (),
        upload_paths: tuple[str, ...] = (),
        max_upload: int = MAX_BODY,
    ) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.gradio_paths = gradio_paths
        self.upload_paths = upload_paths
        self.max_upload = max_upload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no page of ours opens a web socket
        headers = Headers(scope=scope)
        send = self._with_headers(scope, send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        limit = self.max_upload if scope["path"].startswith(self.upload_paths) else MAX_BODY
        if int(headers.get("content-length") or 0) > limit:
            await _answer(send, 413, f"more than {limit} bytes")
            return
        await self.app(scope, _limited(receive, limit), send)

    def _refusal(self, scope: Any, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return 400, "the header Host names no host"
        if self.hosts and name not in self.hosts:
            return 421, "this app has no accounts and answers to localhost only"
        if scope["method"] not in SAFE_METHODS:
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                return 403, "a page of another site asked for this"
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "a page of another site asked for this"
        return None

    def _with_headers(self, scope: Any, send: Any) -> Any:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", STRICT_POLICY)
                headers.setdefault("Cache-Control", self._caching(scope["path"], message["status"]))
            await send(message)

        return sending

    def _caching(self, path: str, status: int) -> str:
        """What a browser may keep for good: scripts, ours and Gradio's, whose address holds a hash; parts after asking."""
        if "/custom_component/" in path:
            return "private, no-cache"
        is_asset = path.startswith("/static/") or (path.startswith(self.gradio_paths) and "/assets/" in path)
        return "private, max-age=31536000, immutable" if is_asset and status == 200 else "no-store"


def _limited(receive: Any, limit: int) -> Any:
    """A body, which may be longer than it was announced or not announced at all; HTTPException 413 where it is too long."""
    seen = 0

    async def receiving() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"more than {limit} bytes")
        return message

    return receiving


async def _answer(send: Any, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
