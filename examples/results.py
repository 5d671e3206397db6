"""What an experiment leaves: one JSON file with its numbers, its settings, and the machine it ran on."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from rlhf.errors import InputError
from rlhf.machine.threads import num_cores

PLACES = ("out", "data", "store", "report", "model")  # where things lie is no setting
FOLDER = Path(__file__).parents[1] / "docs" / "talk" / "results"


def main(name, description, run, **settings):
    """The command of an experiment: its settings as options, what `run` finds into the result file."""
    asked = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--data", help="folder with the three texts (default: the built-in text)")
    asked.add_argument("--out", type=Path, default=FOLDER, help="folder for the result file")
    for setting, value in settings.items():
        kind = positive if type(value) is int and value else type(value)
        asked.add_argument(f"--{setting.replace('_', '-')}", type=kind, default=value, help=f"({value})")
    given = asked.parse_args()
    try:
        started = time.monotonic()
        found = run(given)
        write(name, given, found, round(time.monotonic() - started, 1))
    except InputError as problem:
        sys.exit(f"error: {problem}")


def positive(text):
    """A whole number from 1 on: no experiment is one of no seeds, tokens or steps."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def write(name, given, found, seconds):
    """NAME.json with settings, machine and what was found; a data folder's place is nobody's business."""
    settings = {key: value for key, value in vars(given).items() if key not in PLACES}
    settings["data"] = "three texts" if given.data else "built-in text"
    given.out.mkdir(parents=True, exist_ok=True)
    made = {"settings": settings, "machine": machine(), "seconds": seconds, "found": found}
    text = json.dumps(made, ensure_ascii=False, indent=1)
    (given.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(given.out / f"{name}.json", file=sys.stderr)


def machine():
    """Processor, cores, threads, versions, the day, and how many programs wanted a core at the end."""
    return {
        "processor": processor(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "day": time.strftime("%Y-%m-%d"),
    }


def processor():
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
