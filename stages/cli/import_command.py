"""`rlhf import`: a model from a folder, a GGUF file or a hub into the store, with where it came from."""

import argparse
from typing import Any

from stages.import_model import import_model


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `import`."""
    command = commands.add_parser(
        "import", parents=[shared], help="put a model from a folder, a GGUF file or a hub into the store"
    )
    command.add_argument("source", help="a folder, a GGUF file or a hub id (owner/name)")
    command.add_argument("--name", required=True, help="name of the new base checkpoint")
    command.add_argument("--licence", help="where the source does not say it itself")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from stages.cli.options import say, store_of

    entry = import_model(store_of(options), options.source, options.name, options.licence, say)
    print(f"{entry.ref}  {entry.path}")
