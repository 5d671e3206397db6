"""How the labeling app is run."""

import ipaddress
from dataclasses import dataclass

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """host, port: where to listen. proxy_header: the header in which a proxy names who has signed in there, empty for
    none; it counts only in requests from `trusted_proxies`. lease_minutes: how long a task is held for a labeler.
    max_upload: bytes of an uploaded file.
    """

    host: str = "127.0.0.1"
    port: int = 7861
    proxy_header: str = ""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    lease_minutes: float = 30.0
    session_hours: float = 12.0
    max_upload: int = 64 * 2**20

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can reach the app."""
        try:
            return self.host in LOOPBACK or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def cookie(self) -> str:
        """The session cookie's name: browsers share cookies between ports, so each app has its own."""
        return f"rlhf_label_{self.port}"
