"""`rlhf store`: look at, check, copy out and delete checkpoints."""

import argparse
from typing import Any

from rlhf.errors import StoreError
from rlhf.store import Entry, Store


def add_store_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `store` and its own commands."""
    top = commands.add_parser(
        "store", parents=[shared], help="list, show, verify, export, remove checkpoints"
    )
    own = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    own.add_parser("ls", parents=[shared], help="all checkpoints").set_defaults(run=list_entries)
    show = own.add_parser("show", parents=[shared], help="one checkpoint, its numbers and what it came from")
    show.add_argument("reference", help="ppo, ppo:latest, ppo/NAME")
    show.set_defaults(run=show_entry)
    verify = own.add_parser("verify", parents=[shared], help="compare every file with its recorded sha256")
    verify.add_argument("reference", nargs="?", help="one checkpoint (default: all)")
    verify.set_defaults(run=verify_entries)
    export = own.add_parser(
        "export", parents=[shared], help="copy a checkpoint to a folder that transformers loads"
    )
    export.add_argument("reference")
    export.add_argument("folder", help="a folder that does not exist yet")
    export.add_argument(
        "--untied", action="store_true", help="a tied head as weights of its own, for vLLM on CPUs"
    )
    export.set_defaults(run=export_entry)
    remove = own.add_parser("rm", parents=[shared], help="delete a checkpoint that no other came from")
    remove.add_argument("reference")
    remove.add_argument("--force", action="store_true", help="even if others came from it")
    remove.set_defaults(run=remove_entry)
    add_push(commands, shared)


def add_push(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `push`."""
    push = commands.add_parser(
        "push", parents=[shared], help="a checkpoint to the Hugging Face hub, with its card"
    )
    push.add_argument("reference", help="ppo, ppo:latest, ppo/NAME")
    push.add_argument("repository", help="OWNER/NAME, made if it is not there")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.set_defaults(run=push_entry)


def push_entry(options: argparse.Namespace) -> None:
    from stages.cli.options import say
    from stages.push import push

    print(push(_store(options), options.reference, options.repository, options.private, say))


def _store(options: argparse.Namespace) -> Store:
    from stages.cli.options import store_of

    return store_of(options)


def list_entries(options: argparse.Namespace) -> None:
    store = _store(options)
    rows = [(entry.ref, entry.manifest["created"][:19], _metrics(entry, 3)) for entry in store.entries()]
    if not rows:
        print(f"{store.root}: empty; make quickstart fills it")
    width = max((len(ref) for ref, _, _ in rows), default=0)
    for ref, created, metrics in rows:
        print(f"{ref:<{width}}  {created}  {metrics}")


def show_entry(options: argparse.Namespace) -> None:
    store = _store(options)
    entry = store.resolve(options.reference)
    for line in lineage(store, entry):
        print(line)
    manifest = entry.manifest
    print(f"\nfolder    {entry.path}")
    shown = ("created", "seed", "hash", "commit", "metrics", "settings", "data", "versions")
    for name in (name for name in shown if name in manifest):
        value = manifest[name]
        text = "  ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
        print(f"{name:<9} {text}")


def lineage(
    store: Store, entry: Entry, indent: str = "", role: str = "", below_it: tuple[str, ...] = ()
) -> list[str]:
    """What an entry came from, as the lines of a tree. below_it: the references on the way down to it."""
    lines = [f"{indent}{role}{entry.ref}  {_metrics(entry, 3)}"]
    parents = entry.manifest["parents"]
    for place, (name, parent) in enumerate(parents.items()):
        last = place == len(parents) - 1
        below = indent.replace("├─ ", "│  ").replace("└─ ", "   ")
        turn, path = "└─ " if last else "├─ ", (*below_it, entry.ref)
        try:
            found = store.at(parent["ref"])
        except StoreError:
            lines.append(f"{below}{turn}{name}: {parent['ref']}  (removed)")
            continue
        if found.ref in path:  # nothing was made of itself: the manifest is wrong
            lines.append(f"{below}{turn}{name}: {found.ref}  (a circle; rlhf store verify)")
            continue
        lines += lineage(store, found, below + turn, f"{name}: ", path)
    return lines


def _metrics(entry: Entry, most: int) -> str:
    shown = [
        f"{name} {value}" for name, value in entry.manifest["metrics"].items() if not isinstance(value, list)
    ]
    return "  ".join(shown[:most])


def verify_entries(options: argparse.Namespace) -> None:
    store = _store(options)
    problems = store.verify(options.reference)
    if problems:
        raise StoreError("; ".join(problems))
    print(f"{options.reference or store.root}: every file is as it was written")


def export_entry(options: argparse.Namespace) -> None:
    store = _store(options)
    if options.untied:
        from rlhf.models.adapters import untie

        print(store.export(options.reference, options.folder, untie))
    else:
        print(store.export(options.reference, options.folder))


def remove_entry(options: argparse.Namespace) -> None:
    print(f"removed {_store(options).remove(options.reference, options.force).ref}")
