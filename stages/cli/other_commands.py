"""`rlhf doctor` and `rlhf tokenizer`."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rlhf.errors import InputError
from stages.cli.options import add_recipe, labels_url_of, read_recipe, say, store_of


def add_other_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands that belong to no stage."""
    doctor = commands.add_parser(
        "doctor", parents=[shared], help="what matters on this machine, and what to change"
    )
    doctor.add_argument("--base", help="also probe this model: what each stage would take here")
    doctor.add_argument(
        "--data", help="the folder `rlhf align` would be given: estimates for a recipe of its, on that data"
    )
    add_recipe(doctor)
    doctor.add_argument("--sampler", help="also ask these rollout servers, with commas between")
    doctor.set_defaults(run=run_doctor)
    tokenizer = commands.add_parser("tokenizer", parents=[shared], help="train a vocabulary")
    own = tokenizer.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train = own.add_parser("train", parents=[shared], help="a byte-level BPE vocabulary from text")
    train.add_argument("--data", required=True, help="text file, rows with a text column or data set")
    train.add_argument("--vocab-size", type=int, default=1024, help="tokens, special ones included (1024)")
    train.add_argument("--out", required=True, help="a folder that does not exist yet")
    train.set_defaults(run=train_tokenizer)


def run_doctor(options: argparse.Namespace) -> None:
    from rlhf.machine.doctor import report

    if (options.data or options.recipe) and not options.base:
        raise InputError("--data and --recipe are for estimates of a model's stages; name it with --base")
    if options.data:
        from stages.align.steps import check_folder

        check_folder(Path(options.data))
    for check in report(store_of(options).root, labels_url_of(options)):
        print(f"{'!' if check.advice else ' '} {check.name:<18} {check.found}")
        if check.advice:
            print(f"  {'':<18} → {check.advice}")
    if options.sampler:
        ask_servers(options.sampler)
    if options.base:
        estimate_stages(options)


def ask_servers(urls: str) -> None:
    """Print what each server of `sampler_urls` answers. Raises InputError for the first that is not fit for PPO."""
    from rlhf.rollout_server import RolloutServers

    servers = RolloutServers(urls.split(","), ".")
    for server in servers.servers:
        print(f"  {'sampler':<18} {server.url} {servers.probe(server)}", flush=True)


def estimate_stages(options: argparse.Namespace) -> None:
    """Print what each stage would take with --base, --recipe and --data, each line as soon as it is measured."""
    from rlhf.inputs import locate_model
    from stages.align.steps import divide_data
    from stages.estimate.estimate import format_duration
    from stages.estimate.estimates import estimates, fitting_recipe

    folder, _ = locate_model(store_of(options), options.base)
    name, reason = (options.recipe, "as named") if options.recipe else fitting_recipe(folder)
    recipe = read_recipe(name)
    if options.data and "data" not in recipe:
        raise InputError(f"recipe {name} has no table [data] that names files in --data; leave --data out")
    print(f"  {'recipe':<18} {name}: {reason}")
    with tempfile.TemporaryDirectory() as work:
        data = Path(options.data) if options.data else None
        if data:
            say("data: dividing")
        parts = divide_data(recipe, folder, data, Path(work), lambda line: None) if data else None
        found = []
        for one in estimates(folder, recipe, parts, say):
            print_estimate(one)
            found.append(one)
    if all(one.peak_mib is not None for one in found):
        print(f"  {'together':<18} about {format_duration(sum(one.seconds for one in found))}")


def print_estimate(found: Any) -> None:
    from rlhf.machine.doctor import memory_gib

    there_is = memory_gib()
    fits = found.peak_mib is not None and (there_is is None or found.peak_mib / 1024 < there_is)
    print(f"{' ' if fits else '!'} {found.stage:<18} {found.summary}", flush=True)
    if not fits:
        print(
            f"  {'':<18} → set a smaller micro_batch_size or gradient_checkpointing, which change no number; else "
            "last_blocks or lora_rank, a smaller batch_size or model"
        )


def train_tokenizer(options: argparse.Namespace) -> None:
    from rlhf.data import read_texts
    from rlhf.durable import new_folder
    from rlhf.models.tokenizer import train_tokenizer as train

    folder = Path(options.out)
    with new_folder(folder) as new:
        tokenizer = train(read_texts(options.data), options.vocab_size)
        tokenizer.save(new)
    print(f"{folder}: {tokenizer.vocab_size} tokens")
