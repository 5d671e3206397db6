"""`rlhf labels`: labels in and out of the label store, batches, agreement, snapshots, copies."""

import argparse
import secrets
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rlhf.errors import InputError, LabelError
from stages.cli.account_commands import add_account_commands, open_labels
from stages.cli.data_commands import add_reading, reading_of

EXTRAS = ("ratings", "flags", "comment", "none_acceptable", "strength")
SETTINGS = (
    "overlap", "quota", "gold_every", "comment_below", "may_skip", "show_progress", "scale", "shown_order"
)  # fmt: skip


def add_label_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `labels` and its own commands."""
    top = commands.add_parser("labels", parents=[shared], help="import, export and check labels; accounts")
    own = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help: str, run: Any) -> argparse.ArgumentParser:
        command = own.add_parser(name, parents=[shared], help=help, description=help)
        command.set_defaults(run=run)
        return command

    _add_batches(add)
    command = add("export", "labels to .jsonl, .csv, .parquet or a datasets folder", export_labels)
    command.add_argument("target", help="file or folder that does not exist yet")
    command.add_argument(
        "--format", choices=("rankings", "pairs", "demonstrations", "ratings"), default="rankings"
    )
    _add_choice(command)
    command.add_argument("--min-agreement", type=float, metavar="X", help="of a task's labelers, 0 to 1")
    command.add_argument("--adjudicated", action="store_true", help="a lead's verdict instead of the answers")
    _add_choice(add("stats", "progress, labelers and agreement", show_stats))
    _add_choice(add("strengths", "how checkpoints compare, from blind comparisons", show_strengths))
    command = add("snapshot", "fix the labels of now under an id for rlhf reward --snapshot", take_snapshot)
    _add_choice(command)
    command.add_argument("--adjudicated", action="store_true", help="a lead's verdict instead of the answers")
    command = add("backup", "a consistent copy while people work", make_backup)
    command.add_argument("target", help="file that does not exist yet")
    add("check", "prove that the label store is whole", check_labels)
    add_account_commands(own, shared)


def _add_batches(add: Any) -> None:
    command = add("import", "rankings or prompts from a file into a new batch", import_labels)
    command.usage = "%(prog)s FILE --batch NAME [--OPTION VALUE …]"
    command.add_argument(
        "file",
        help="rankings (.jsonl, .json, .csv, .parquet; ours, trl, HH, OASST, Label Studio, Argilla), or prompts",
    )
    command.add_argument("--batch", required=True, help="name of the new batch")
    command.add_argument(
        "--kind", choices=("rank", "rate", "demonstrate"), default="rank", help="what people do (rank)"
    )
    command.add_argument("--unranked", action="store_true", help="let people rank or rate them anew")
    command.add_argument("--scale", type=int, metavar="N", help="ratings go from 1 to N, 2 to 10 (7)")
    command.add_argument("--shown-order", choices=("random", "fixed"), help="of a task's answers (random)")
    add_reading(command)
    _add_batch_settings(command)
    command = add("batch", "show or change a batch's settings", change_batch)
    command.add_argument("batch", help="name of the batch")
    _add_batch_settings(command)
    state = command.add_mutually_exclusive_group()
    state.add_argument("--open", dest="open", action="store_true", default=None, help="give out its tasks")
    state.add_argument("--close", dest="open", action="store_false", help="give out no more tasks")
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="sample again the prompts of a live batch that were given up",
    )
    command.add_argument("--webhook", metavar="URL", help="told when every task is done; '' ends it")
    command = add("gold", "gold questions from ranked rows, mixed into a batch", add_gold)
    command.add_argument("file", help="rankings whose ranks are the right answers")
    command.add_argument("--batch", required=True, help="name of a batch that is there")
    add_reading(command)
    command = add("prioritize", "give out first what the reward model is least sure of", prioritize)
    command.add_argument("--batch", required=True, help="name of the batch")
    command.add_argument("--reward", default="reward", help="reward model (reward)")


def _add_batch_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--overlap", type=int, metavar="N", help="labelers per task (1)")
    command.add_argument("--quota", type=int, metavar="N", help="answers one labeler may give (0: no limit)")
    command.add_argument(
        "--order", choices=("random", "priority"), help="in which tasks are given out (random)"
    )
    command.add_argument("--gold-every", type=int, metavar="N", help="one task in N is a gold question (10)")
    command.add_argument("--guidelines", metavar="FILE", help="Markdown for the labelers")
    command.add_argument(
        "--ask", metavar="LIST", help=f"besides the order, any of {','.join(EXTRAS)} (comment)"
    )
    command.add_argument(
        "--comment-below", type=int, metavar="N", help="a lower rating owes a comment (0: never)"
    )
    whether = argparse.BooleanOptionalAction
    command.add_argument("--may-skip", action=whether, help="labelers may skip tasks (yes)")
    command.add_argument("--show-progress", action=whether, help="labelers see how far they are (yes)")


def _batch_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by the names that BatchSettings and Asks have for them."""
    from annotate.work.asks import FLAGS

    given = {name: getattr(options, name, None) for name in SETTINGS} | {"task_order": options.order}
    found = {name: value for name, value in given.items() if value is not None}
    if options.guidelines is not None:
        try:
            found["guidelines"] = Path(options.guidelines).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{options.guidelines}: cannot be read ({error})") from None
    if options.ask is not None:
        asked = [name.strip() for name in options.ask.split(",") if name.strip()]
        unknown = set(asked) - set(EXTRAS)
        if unknown:
            raise InputError(f"--ask {', '.join(sorted(unknown))}: choose from {', '.join(EXTRAS)}")
        found |= {name: name in asked for name in EXTRAS} | {"flags": FLAGS if "flags" in asked else ()}
    return found


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", help="one batch (default: all)")
    command.add_argument("--since", metavar="DAY", help="first day, as 2026-01-31 (UTC)")
    command.add_argument("--until", metavar="DAY", help="last day, as 2026-01-31 (UTC)")
    command.add_argument("--labeler", action="append", default=[], help="one labeler; may be repeated")
    command.add_argument("--people-only", action="store_true", help="leave simulated labelers out")


def _choice(options: argparse.Namespace) -> Any:
    from annotate.answers.choice import DAY_S, Choice, midnight

    return Choice(
        batch=options.batch,
        since=midnight(_day("--since", options.since)),
        until=midnight(_day("--until", options.until), DAY_S),
        labelers=tuple(options.labeler),
        include_simulated=not options.people_only,
        min_agreement=getattr(options, "min_agreement", None),
        adjudicated=getattr(options, "adjudicated", False),
    )


def _day(flag: str, day: str | None) -> date | None:
    try:
        return None if day is None else date.fromisoformat(day)
    except ValueError:
        raise InputError(f"{flag} {day}: write a day as 2026-01-31") from None


def import_labels(options: argparse.Namespace) -> None:
    from annotate.answers.foreign import read_labels, read_to_rate
    from annotate.answers.importing import import_prompts, import_rankings
    from annotate.answers.twins import twins
    from annotate.work.asks import ASKED, Asks
    from annotate.work.batches import BatchSettings
    from rlhf.data import read_prompts

    given = _batch_settings(options)
    asks = Asks(**{name: given.pop(name) for name in ASKED & set(given)})
    settings = BatchSettings(name=options.batch, kind=options.kind, origin="import", asks=asks, **given)
    if options.kind == "demonstrate":
        prompts = read_prompts(options.file, options=reading_of(options))
        with open_labels(options, make=True) as store:
            done = import_prompts(store.database, settings, prompts, watch=_watched)
            same = twins(store.database, options.batch)
    else:
        read = read_to_rate if options.kind == "rate" else read_labels
        rankings = read(options.file, options=reading_of(options))
        with open_labels(options, make=True) as store:
            done = import_rankings(
                store.database, settings, rankings, keep_ranks=not options.unranked, watch=_watched
            )
            same = twins(store.database, options.batch)
    print(
        f"batch {options.batch}: {done.tasks} tasks, {done.answers} {'ratings' if options.kind == 'rate' else 'rankings'}"
    )
    if same:
        print(
            f"its tasks are those of batch {', '.join(same)} too; where both have answers, these count twice",
            file=sys.stderr,
        )


def _watched(parts: Sequence[int], what: str) -> Iterable[int]:
    """The parts of an import, with a bar from the second second on."""
    from tqdm import tqdm

    bar: Iterable[int] = tqdm(parts, what, delay=1, mininterval=1, unit="part")
    return bar


def change_batch(options: argparse.Namespace) -> None:
    from annotate.work import batches, live
    from annotate.work.webhooks import set_webhook

    changes = _batch_settings(options) | ({} if options.open is None else {"open": options.open})
    with open_labels(options) as store:
        if changes:
            batches.change_batch(store.database, options.batch, **changes)
        if options.retry_failed:
            wanted = live.want_failed_again(store.database, options.batch)
            print(f"{wanted} prompts are to be sampled again; rlhf label does that while it runs")
        if options.webhook is not None:
            secret = secrets.token_hex(16)
            set_webhook(store.database, options.batch, options.webhook, secret)
            print(f"secret       {secret} signs the notices and is shown once")
        found = batches.batch_settings(store.database, options.batch)
    for name in (
        "kind",
        "overlap",
        "quota",
        "task_order",
        "gold_every",
        "open",
        "asks",
        "origin",
        "webhook_url",
    ):
        print(f"{name:<12} {getattr(found, name)}")


def add_gold(options: argparse.Namespace) -> None:
    from annotate.answers.foreign import read_labels
    from annotate.answers.importing import add_gold_questions

    rankings = read_labels(options.file, options=reading_of(options))
    with open_labels(options) as store:
        added = add_gold_questions(store.database, options.batch, rankings)
    print(f"batch {options.batch}: {added} gold questions added")


def prioritize(options: argparse.Namespace) -> None:
    from stages.cli.options import labels_url_of, say, store_of
    from stages.labeling import prioritize

    done = prioritize.run(options.reward, options.batch, store_of(options), labels_url_of(options), say)
    print(f"batch {options.batch}: {done} tasks, the least certain first")


def export_labels(options: argparse.Namespace) -> None:
    from annotate.answers.export import export

    with open_labels(options) as store:
        done = export(store.database, Path(options.target), options.format, _choice(options))
    print(f"{options.target}: {done.rows} {options.format}, snapshot {done.snapshot}")


def show_stats(options: argparse.Namespace) -> None:
    from annotate.answers.ballots import ballots
    from annotate.figures.dashboard import agreement_overall

    with open_labels(options) as store:
        with store.database.read() as connection:
            found = agreement_overall(ballots(connection, _choice(options)))
        for name in [options.batch] if options.batch else store.batches():
            progress = store.progress(name)
            print(
                f"batch {name}: {progress.finished} of {progress.tasks} tasks, {progress.answers} of {progress.wanted} answers"
            )
        for labeler in store.labelers():
            kind = labeler["role"] if labeler["origin"] == "person" else labeler["origin"]
            print(f"{labeler['name']} ({kind}): {labeler['answers']} answers")
    if found.percent is not None:
        decided = (
            ""
            if found.decided is None
            else f", {found.decided:.1%} of {found.decided_pairs} where both have a preference"
        )
        print(f"agreement: {found.percent:.1%} of {found.pairs} pairs{decided}")
    if found.alpha is not None and found.alpha_ci95 is not None:
        print(
            f"Krippendorff's alpha: {found.alpha:.3f} [{found.alpha_ci95[0]:.3f}, {found.alpha_ci95[1]:.3f}]"
        )
    if found.undefined:
        print(found.undefined)


def show_strengths(options: argparse.Namespace) -> None:
    from annotate.figures.strengths import strengths

    with open_labels(options) as store:
        table = strengths(store.database, _choice(options))
    if table.undefined:
        print(table.undefined)
    for row in table.rows:
        low, high = row.ci95
        score = f"{row.log_strength:+.2f} [{low:+.2f}, {high:+.2f}]"
        print(f"{row.checkpoint:<32} {score:<24} {row.wins} won, {row.ties} tied, {row.losses} lost")


def take_snapshot(options: argparse.Namespace) -> None:
    with open_labels(options) as store:
        snapshot = store.snapshot(choice=_choice(options))
    print(snapshot.id)
    print(f"{snapshot.num_annotations} answers", file=sys.stderr)


def make_backup(options: argparse.Namespace) -> None:
    from annotate.store.backup import backup

    with open_labels(options) as store:
        backup(store.database, Path(options.target))
    print(options.target)


def check_labels(options: argparse.Namespace) -> None:
    from annotate.store.backup import check

    with open_labels(options) as store:
        problems = check(store.database)
    if problems:
        raise LabelError("; ".join(problems))
    print("every label is whole")
