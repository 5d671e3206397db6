"""`rlhf quickstart` and `rlhf align`: all stages in a row."""

import argparse
import json
from pathlib import Path
from typing import Any

from rlhf.errors import InputError
from stages.cli.options import add_recipe, labels_url_of, read_recipe, say, store_of


def add_pipeline_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands that run all stages."""
    quickstart = commands.add_parser(
        "quickstart", parents=[shared], help="the whole pipeline on the starter world"
    )
    add_recipe(quickstart)
    quickstart.add_argument("--seed", type=int, default=0, help="seed of the whole pipeline (0)")
    quickstart.add_argument(
        "--json", action="store_true", help="print the report's numbers as one JSON object"
    )
    quickstart.set_defaults(run=run_quickstart, resumes=True)
    align = commands.add_parser(
        "align",
        parents=[shared],
        help="a language model through all stages on people's data, judged at the end",
    )
    align.add_argument(
        "--base", required=True, help="store reference, folder, GGUF file or hub id to start from"
    )
    align.add_argument(
        "--data", help="folder where files that the recipe's [data] names are looked for first"
    )
    add_recipe(align)
    align.add_argument("--seed", type=int, default=0, help="seed of the whole pipeline (0)")
    align.add_argument(
        "--shard",
        choices=("auto", "on", "off"),
        help="divide the weights between processes (default: as the recipe says)",
    )
    align.add_argument("--json", action="store_true", help="print the report's numbers as one JSON object")
    align.set_defaults(run=run_align, resumes=True)
    report = commands.add_parser(
        "report", parents=[shared], help="the page of a run or of rlhf eval --name, made anew"
    )
    report.add_argument("name", help="of the report, as under store/reports")
    report.set_defaults(run=run_report)


def run_quickstart(options: argparse.Namespace) -> None:
    from stages import quickstart

    name = options.recipe or "quickstart"
    results = quickstart.run(
        read_recipe(name),
        store_of(options),
        labels_url_of(options),
        name=Path(name).stem,
        seed=options.seed,
        say=say,
    )
    if options.json:
        print(json.dumps(results, ensure_ascii=False))


def run_report(options: argparse.Namespace) -> None:
    from stages.report.report import render

    print(render(store_of(options), options.name, say))


def run_align(options: argparse.Namespace) -> None:
    from rlhf.machine import processes
    from stages import align

    if options.recipe is None:
        raise InputError(
            "rlhf align needs --recipe, which names the files to learn from; see recipes/smollm2.toml"
        )
    recipe = dict(read_recipe(options.recipe))
    for step in ("sft", "reward", "gold", "ppo") if options.shard else ():
        recipe[step] = {**recipe.get(step, {}), "shard": options.shard}
    results = align.run(
        recipe,
        store_of(options),
        labels_url_of(options),
        base=options.base,
        data=Path(options.data) if options.data else None,
        name=Path(options.recipe).stem,
        seed=options.seed,
        say=say,
    )
    if options.json and processes.is_main_process():
        print(json.dumps(results, ensure_ascii=False))
