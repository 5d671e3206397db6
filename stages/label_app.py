"""`rlhf label`: the labeling app."""

import argparse
import sys
from typing import Any

from rlhf.errors import InputError


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `label`."""
    text = "rank, write and review answers in the browser"
    command = commands.add_parser("label", parents=[shared], help=text, description=text)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; other than this machine needs accounts (127.0.0.1)",
    )
    command.add_argument("--port", type=int, default=7861, help="port to listen on (7861)")
    command.add_argument(
        "--proxy-header",
        default="",
        metavar="NAME",
        help="header in which a proxy names who is signed in, such as X-Forwarded-User (none)",
    )
    command.add_argument(
        "--trusted-proxy",
        action="append",
        metavar="ADDRESS",
        help="address of a proxy whose header counts (this machine); may be repeated",
    )
    command.set_defaults(run=run_label)


def run_label(options: argparse.Namespace) -> None:
    try:
        from annotate.app.server import create_app, serve
    except ModuleNotFoundError as error:
        raise InputError(f"the labeling app needs {error.name}: pip install 'rlhf[label]'") from None
    from annotate.app.settings import AppSettings
    from annotate.labels import LabelStore
    from stages.cli import labels_url_of

    proxies = tuple(options.trusted_proxy or AppSettings.trusted_proxies)
    settings = AppSettings(
        host=options.host, port=options.port, proxy_header=options.proxy_header, trusted_proxies=proxies
    )
    with LabelStore(labels_url_of(options)) as store:
        serve(create_app(store, settings), lambda line: print(line, file=sys.stderr, flush=True))
