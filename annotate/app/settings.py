"""How the labeling app is run."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Page = Callable[
    [Any], None
]  # makes the labelers' page: is given site/parts.Parts, which it puts where it wants them


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """host, port: where to listen. behind_proxy: addresses or networks of the proxies that people come through; what
    they say of a request's address and scheme counts. proxy_header: the header in which they name who has signed in
    there, empty for none. root_path: where the app stands below its host, such as /labels. lease_minutes: how long a task is held for a labeler. max_upload: bytes of an uploaded file.
    """

    host: str = "127.0.0.1"
    port: int = 7861
    behind_proxy: tuple[str, ...] = ()
    proxy_header: str = ""
    root_path: str = ""
    lease_minutes: float = 30.0
    session_hours: float = 12.0
    max_upload: int = 64 * 2**20

    @property
    def trusted_proxies(self) -> tuple[str, ...]:
        """The proxies; one that names people stands on this machine where nothing else is said."""
        return self.behind_proxy or (("127.0.0.1", "::1") if self.proxy_header else ())

    @property
    def local_only(self) -> bool:
        """Whether only programs on this machine can reach the app."""
        if self.trusted_proxies:
            return False
        try:
            return self.host in LOOPBACK or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def cookie(self) -> str:
        """The session cookie's name: browsers share cookies between ports, so each app has its own.

        Behind a proxy several processes on ports of their own are one app.
        """
        if self.trusted_proxies:
            return f"rlhf_label{self.root_path}".replace("/", "_")
        return f"rlhf_label_{self.port}"
