"""`rlhf import` and `rlhf hand-over`: models from elsewhere into the store, and runs from it to another engine."""

import argparse
from pathlib import Path
from typing import Any

from stages.import_model import import_model


def add_import_command(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `import` and `hand-over`."""
    command = commands.add_parser(
        "import", parents=[shared], help="put a model from a folder, a GGUF file or a hub into the store"
    )
    command.add_argument("source", help="a folder, a GGUF file or a hub id (owner/name)")
    command.add_argument("--name", required=True, help="name of the new base checkpoint")
    command.add_argument("--licence", help="where the source does not say it itself")
    command.set_defaults(run=run)
    over = commands.add_parser(
        "hand-over", parents=[shared], help="a PPO run as the files and the command of verl or OpenRLHF"
    )
    over.add_argument("reference", help="ppo, ppo:latest, ppo/NAME")
    over.add_argument("folder", help="a folder that does not exist yet")
    over.add_argument("--to", required=True, choices=("verl", "openrlhf"), help="the engine")
    over.set_defaults(run=run_hand_over)


def run(options: argparse.Namespace) -> None:
    from stages.cli.options import say, store_of

    entry = import_model(store_of(options), options.source, options.name, options.licence, say)
    print(f"{entry.ref}  {entry.path}")


def run_hand_over(options: argparse.Namespace) -> None:
    from stages.cli.options import say, store_of
    from stages.ppo.hand_over import hand_over

    hand_over(store_of(options), options.reference, options.to, Path(options.folder), say)
    print(Path(options.folder) / "run.sh")
