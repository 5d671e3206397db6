"""A server that ends well: no new requests, and time for those under way."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

LAST_WORDS_S = 2.0  # for streams to say that they end, before they are cut off


class Server(uvicorn.Server):
    """uvicorn's, which tells what it waits for, and calls `out_of_patience` before it cuts off what is left."""

    def __init__(
        self,
        config: uvicorn.Config,
        say: Callable[[str], None],
        patience_s: float,
        out_of_patience: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.say, self.patience_s, self.out_of_patience = say, patience_s, out_of_patience

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests under way."""
        if num_open := len(self.server_state.tasks):
            self.say(
                f"ending: {num_open} requests are under way and have {self.patience_s:.0f} s "
                "(Ctrl-C again ends at once)"
            )
        timer = asyncio.get_running_loop().call_later(self.patience_s, self.out_of_patience)
        await super().shutdown(sockets)
        timer.cancel()


def run_until_stopped(
    app: FastAPI,
    listener: socket.socket,
    say: Callable[[str], None],
    patience_s: float,
    out_of_patience: Callable[[], None],
) -> None:
    """Serve on a listening socket until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=False,  # BehindProxy reads them
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(patience_s + LAST_WORDS_S),
    )
    Server(config, say, patience_s, out_of_patience).run(sockets=[listener])
