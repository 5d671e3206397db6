"""`rlhf data`: what a source would be read as, before anything is trained, and fetching public sets."""

import argparse
import json
from typing import Any

from rlhf.errors import InputError

USES = ("rankings", "demonstrations", "prompts", "texts")


def add_data_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `rlhf data show` and `rlhf data fetch`."""
    data = commands.add_parser(
        "data", parents=[shared], help="look at data before training; fetch public sets"
    )
    own = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = own.add_parser(
        "show", parents=[shared], help="what a source would be read as, and what would be left out"
    )
    show.add_argument(
        "source", help="file, folder, glob or data set on the hub (owner/name[/config][:split][@revision])"
    )
    show.add_argument("--as", dest="use", choices=USES, help="what to read (default: the first it holds)")
    show.add_argument("--tokenizer", help="folder or hub id, for lengths in tokens (default: words)")
    show.add_argument("--max-length", type=int, default=512, help="tokens from which rows count as cut (512)")
    show.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SOURCE",
        help="another source to look for the same conversations in",
    )
    show.add_argument("--json", action="store_true", help="print one JSON object")
    add_reading(show)
    show.set_defaults(run=show_data)
    fetch = own.add_parser(
        "fetch",
        parents=[shared],
        help="bring data sets of the hub into its cache, for work without a network",
    )
    fetch.add_argument("sources", nargs="+", metavar="NAME", help="owner/name[/config][:split][@revision]")
    fetch.set_defaults(run=fetch_data)


def add_reading(command: argparse.ArgumentParser) -> None:
    """The options that say how a source is to be read."""
    command.add_argument("--map", default="", metavar="FIELD=COLUMN,…",
                         help="columns by the names the formats have, such as prompt=question,chosen=good; ignore=NAME leaves one out")  # fmt: skip
    command.add_argument(
        "--answers",
        default="",
        metavar="NAME,NAME",
        help="the columns of a labeling tool's export that hold the answers",
    )
    command.add_argument("--left", metavar="NAME", help="the column that a labeling tool showed on the left")
    command.add_argument(
        "--skip-bad-rows", action="store_true", help="leave malformed rows out and count them"
    )


def reading_of(options: argparse.Namespace) -> Any:
    """The options as the readers take them; progress and the account go to stderr."""
    from rlhf.data import read_options
    from stages.cli.options import say

    return read_options(options, say)


def show_data(options: argparse.Namespace) -> None:
    """Print what the source would be read as."""
    from dataclasses import replace

    from stages.cli.options import say
    from stages.show_data import described, read_as

    lengths = _lengths(options.tokenizer)
    reading = reading_of(options)
    rows = read_as(options.source, options.use, reading)
    # Only the source itself is mapped; others are read as they are.
    others = {name: read_as(name, None, replace(reading, columns="", say=say)) for name in options.against}
    found = described(rows, lengths, options.max_length, others)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        if name == "first_rows":
            for number, row in enumerate(value, start=1):
                print(f"row {number}")
                print("\n".join(f"  {line}" for line in row))
        elif value not in ({}, [], "", None):
            print(f"{name:<18} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _lengths(tokenizer: str | None) -> Any:
    """How to count tokens of a result, and of what unit."""
    if tokenizer is None:
        return "words", lambda text: len(text.split())
    from rlhf.models.tokenizer import load_tokenizer

    found = load_tokenizer(tokenizer)
    return "tokens", lambda text: len(found.encode(text))


def fetch_data(options: argparse.Namespace) -> None:
    """Bring the sources' files and say which commit they are of."""
    from rlhf.data.places import places

    for source in options.sources:
        for place in places(source):
            if not place.revisions:
                raise InputError(
                    f"{source}: is here already; fetch takes names of data sets on the hub (owner/name)"
                )
            size = sum(path.stat().st_size for path in place.files)
            shas = ", ".join(f"{name} @ {sha}" for name, sha in place.revisions.items())
            print(f"{place.shown}: {len(place.files)} files, {size / 2**20:.1f} MiB, {shas}")
