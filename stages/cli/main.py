"""`rlhf`: one command per stage. Heavy packages are imported inside the command that needs them."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from rlhf import __version__
from rlhf.durable import disk_problems_explained
from rlhf.errors import RLHFError
from rlhf.packages import how_to_install
from stages.cli.data_commands import add_data_commands
from stages.cli.import_command import add_import_command
from stages.cli.label_app import add_label_app
from stages.cli.label_commands import add_label_commands
from stages.cli.options import (
    STAGES,
    TRAINING,
    Command,
    add_proxy,
    add_recipe,
    add_settings,
    everywhere_options,
    say,
    store_of,
)
from stages.cli.other_commands import add_other_commands
from stages.cli.pipeline_commands import add_pipeline_commands
from stages.cli.stage_commands import RUNNERS
from stages.cli.store_commands import add_store_commands
from stages.quiet import quiet_libraries

LONG = STAGES.keys() - {
    "chat",
    "serve",
}  # which say at once that they have begun, and keep what they have done
OTHERS = (
    add_data_commands,
    add_import_command,
    add_store_commands,
    add_label_app,
    add_label_commands,
    add_other_commands,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 after a one-line error, 130 after Ctrl-C."""
    _settle_streams()
    options = parse(arguments)
    quiet_libraries()
    status, why = outcome(options)
    if why:  # said when the frames of an error are gone, and with them the progress bars that they held open
        say(f"rlhf: {why}")
    return status


def _settle_streams() -> None:
    """Give a command all three streams, also where its caller closed one, and let no letter stop it that theirs has no sign for."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def outcome(options: argparse.Namespace) -> tuple[int, str | None]:
    """Carry out a command: the exit status, and one line that says why it did not end as it should."""
    try:
        if getattr(options, "stage", None) in LONG and "torch" not in sys.modules:
            say(f"{options.stage}: loading torch, transformers and trl")
        with disk_problems_explained(store_of(options).root):
            options.run(options)
    except KeyboardInterrupt:
        goes_on = (
            "; the same command goes on from the last save" if getattr(options, "resumes", False) else ""
        )
        return 130, f"stopped{goes_on}"
    except BrokenPipeError:
        sys.stderr.close()
    except ModuleNotFoundError as error:
        command = how_to_install(error.name or "")
        if options.debug or command is None:
            raise
        return 2, f"error: this needs {error.name}, which is not installed: {command}"
    except RLHFError as error:
        if options.debug:
            raise
        return 2, f"error: {error}"
    return 0, None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of one command, those that stand everywhere included."""
    everywhere = argparse.Namespace(store=None, labels_url=None, debug=False)
    return parser().parse_args(arguments, everywhere)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shared = everywhere_options()
    top = Command(prog="rlhf", description="The InstructGPT recipe: collect, train, talk.", parents=[shared])
    top.add_argument("--version", action="version", version=f"rlhf {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_pipeline_commands(commands, shared)
    for name, kind in STAGES.items():
        text = (kind.__doc__ or "").strip()
        command = commands.add_parser(name, parents=[shared], help=text.rstrip("."), description=text)
        add_settings(command, kind)
        add_recipe(command)
        if name in TRAINING:
            command.add_argument(
                "--resume",
                action="store_true",
                help="go on with an interrupted run, as happens by itself too; an error where there is none",
            )
        if name == "chat":
            add_proxy(command.add_argument_group("behind a proxy, with --web"))
        if name in ("eval", "best-of-n"):
            command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=RUNNERS[name], stage=name, resumes=name in LONG)

    for add_more in OTHERS:
        add_more(commands, shared)
    return top
