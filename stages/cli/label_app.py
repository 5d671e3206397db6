"""`rlhf label`: the labeling app; `rlhf space`: it, or a checkpoint to talk to, as a folder for Hugging Face Spaces."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from stages.cli.options import add_proxy


def add_label_app(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `label`, and `space` with its own commands."""
    _add_space(commands, shared)
    text = "rank, write and review answers in the browser"
    command = commands.add_parser("label", parents=[shared], help=text, description=text)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; other than this machine needs accounts (127.0.0.1)",
    )
    command.add_argument("--port", type=int, default=7861, help="port to listen on (7861)")
    add_proxy(command)
    command.add_argument(
        "--page",
        default="",
        metavar="MODULE:FUNCTION",
        help="labelers' page of your own (docs/labeling.md)",
    )
    fresh = command.add_argument_group("fresh answers, sampled in a process of its own while people label")
    fresh.add_argument("--sample-from", metavar="REF", help="checkpoint to ask, such as sft:latest")
    fresh.add_argument("--prompts", metavar="FILE", help="prompts to ask it (the starter world's)")
    fresh.add_argument("--batch", default="live", metavar="NAME", help="batch of these answers (live)")
    fresh.add_argument("--k", type=int, default=4, metavar="N", help="answers to each prompt (4)")
    command.set_defaults(run=run_label)


def run_label(options: argparse.Namespace) -> None:
    from annotate.app.launch import page_named
    from annotate.app.server import create_app, serve
    from annotate.app.settings import AppSettings
    from annotate.labels import LabelStore
    from stages.cli.options import labels_url_of, proxy_of, say, store_of

    page = page_named(options.page) if options.page else None
    settings = AppSettings(host=options.host, port=options.port, **proxy_of(options))
    from annotate.work.live import any_live
    from stages.labeling import live

    store = store_of(options)
    sampler = live.Sampler(store, labels_url_of(options), say)
    with LabelStore(labels_url_of(options)) as labels, closing(sampler):
        app = create_app(labels, settings, sampler=sampler, page=page)
        if options.sample_from:
            live.add_batch(labels, store, options.sample_from, options.batch, options.prompts, options.k)
        if any_live(labels.database):
            sampler.start()
        serve(app, say)


def _add_space(commands: Any, shared: argparse.ArgumentParser) -> None:
    text = "a Hugging Face Space: the labeling app, or a checkpoint to talk to"
    top = commands.add_parser("space", parents=[shared], help=text, description=text)
    own = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    label = own.add_parser("label", parents=[shared], help="the labeling app, with accounts")
    label.set_defaults(run=write_label)
    chat = own.add_parser("chat", parents=[shared], help="a checkpoint to talk to")
    chat.add_argument("checkpoint", help="ppo, sft/NAME, a folder or a hub id")
    chat.set_defaults(run=write_chat)
    for command in (label, chat):
        command.add_argument("folder", help="a folder that does not exist yet")


def write_label(options: argparse.Namespace) -> None:
    from stages.cli.options import say
    from stages.talk import space

    space.write_label_space(Path(options.folder), say)


def write_chat(options: argparse.Namespace) -> None:
    from stages.cli.options import say, store_of
    from stages.talk import space

    space.write_chat_space(store_of(options), options.checkpoint, Path(options.folder), say)
