"""`rlhf labels`: rankings in and out of the label store, agreement, snapshots, copies, accounts."""

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from rlhf.errors import InputError, LabelError


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `labels` and its own commands."""
    top = commands.add_parser("labels", parents=[shared], help="import, export and check labels; accounts")
    own = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help: str, run: Any) -> argparse.ArgumentParser:
        command = own.add_parser(name, parents=[shared], help=help, description=help)
        command.set_defaults(run=run)
        return command

    command = add("import", "rankings or comparisons from a file into a new batch", import_labels)
    command.add_argument("file", help="rankings (.jsonl, .csv, .parquet), a datasets folder or a hub name")
    command.add_argument("--batch", required=True, help="name of the new batch")
    command.add_argument("--unranked", action="store_true", help="let people rank them anew")
    command = add("export", "labels to .jsonl, .csv, .parquet or a datasets folder", export_labels)
    command.add_argument("target", help="file or folder to write")
    command.add_argument("--format", choices=("rankings", "pairs", "demonstrations"), default="rankings")
    _add_choice(command)
    command = add("stats", "progress, labelers and agreement", show_stats)
    _add_choice(command)
    command = add("snapshot", "fix the labels of now under an id for rlhf reward --snapshot", take_snapshot)
    _add_choice(command)
    command = add("backup", "a consistent copy while people work", make_backup)
    command.add_argument("target", help="file that does not exist yet")
    add("check", "prove that the label store is whole", check_labels)
    user = add("user", "accounts", None)
    users = user.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = users.add_parser("add", parents=[shared], help="make an account; the password is asked for")
    command.add_argument("name")
    command.add_argument("--role", choices=("labeler", "lead", "admin"), default="labeler")
    command.set_defaults(run=add_user)


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", help="one batch (default: all)")
    command.add_argument("--people-only", action="store_true", help="leave simulated labelers out")


def _open(options: argparse.Namespace) -> Any:
    from annotate.labels import LabelStore
    from stages.cli import labels_url_of

    return LabelStore(labels_url_of(options))


def import_labels(options: argparse.Namespace) -> None:
    from annotate.exchange import import_rankings
    from rlhf.data import read_rankings

    rankings = read_rankings(options.file)
    with _open(options) as store:
        tasks = import_rankings(store, options.batch, rankings, keep_ranks=not options.unranked)
    print(f"batch {options.batch}: {tasks} tasks, {0 if options.unranked else len(rankings)} rankings")


def export_labels(options: argparse.Namespace) -> None:
    from annotate.exchange import demonstration_rows, export_rows, pair_rows, ranking_rows

    with _open(options) as store:
        if options.format == "demonstrations":
            rows = demonstration_rows(store.demonstrations(options.batch))
        else:
            rankings = store.rankings(options.batch, include_simulated=not options.people_only)
            rows = ranking_rows(rankings) if options.format == "rankings" else pair_rows(rankings)
    if not rows:
        raise InputError(f"no {options.format} to export; nothing was written")
    export_rows(rows, Path(options.target))
    print(f"{options.target}: {len(rows)} {options.format}")


def show_stats(options: argparse.Namespace) -> None:
    from annotate.agreement import agreement

    with _open(options) as store:
        for name in [options.batch] if options.batch else store.batches():
            progress = store.progress(name)
            print(
                f"batch {name}: {progress.finished} of {progress.tasks} tasks, {progress.answers} of {progress.wanted} answers"
            )
        for labeler in store.labelers():
            kind = labeler["role"] if labeler["origin"] == "person" else labeler["origin"]
            print(f"{labeler['name']} ({kind}): {labeler['answers']} answers")
        found = agreement(store.rankings(options.batch, include_simulated=not options.people_only))
    if found.percent is not None:
        decided = "" if found.decided is None else f", {found.decided:.1%} where both have a preference"
        print(f"agreement: {found.percent:.1%} of {found.pairs} pairs{decided}")
    if found.alpha is not None and found.alpha_ci95 is not None:
        print(
            f"Krippendorff's alpha: {found.alpha:.3f} [{found.alpha_ci95[0]:.3f}, {found.alpha_ci95[1]:.3f}]"
        )
    if found.undefined:
        print(found.undefined)


def take_snapshot(options: argparse.Namespace) -> None:
    with _open(options) as store:
        snapshot = store.snapshot(options.batch, include_simulated=not options.people_only)
    print(snapshot.id)
    print(f"{snapshot.num_annotations} answers", file=sys.stderr)


def make_backup(options: argparse.Namespace) -> None:
    from annotate.backup import backup

    with _open(options) as store:
        backup(store.database, Path(options.target))
    print(options.target)


def check_labels(options: argparse.Namespace) -> None:
    from annotate.backup import check

    with _open(options) as store:
        problems = check(store.database)
    if problems:
        raise LabelError("; ".join(problems))
    print("every label is whole")


def add_user(options: argparse.Namespace) -> None:
    from annotate.accounts import add_account

    password = getpass.getpass("password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    with _open(options) as store:
        add_account(store.database, options.name, password, options.role)
    print(f"{options.name} ({options.role})")
