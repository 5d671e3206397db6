"""What reading 500 MB of JSON lines takes: seconds to the first word and to the first optimizer step, and memory.

    python benchmarks/large_files.py FOLDER [--megabytes 500]

Files of short rows, long rows and short rows with one emoji among them are made in FOLDER; SFT of a small model starts
on each and is stopped at its first step. Then three prompts at random, and an import of labels. One core if pinned so.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

STEP = re.compile(r"sft: .*\| *[1-9][0-9]*/")  # the bar of optimizer steps after the first


def write(path: Path, megabytes: int, row: dict[str, object], odd: dict[str, object] | None = None) -> None:
    """Rows like this one, each with a number of its own, up to that size; an odd one in the middle."""
    if path.exists():
        return
    limit, size, number = megabytes * 2**20, 0, 0
    with path.open("w") as file:
        while size < limit:
            row["prompt"] = f"{number} what"
            size += file.write(json.dumps(row) + "\n")
            number += 1
            if odd is not None and size > limit / 2:
                file.write(json.dumps(odd, ensure_ascii=False) + "\n")
                odd = None


def watched(command: list[str], reached: re.Pattern[str]) -> dict[str, float]:
    """Seconds to the first line of stderr and to one that matches, where the command is ended, and its peak in MiB."""
    started, seen = time.monotonic(), dict[str, float]()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", *command], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    peak = _watch_memory(process.pid)
    assert process.stderr is not None
    for line in process.stderr:  # universal newlines: a bar's carriage returns end lines, too
        seen.setdefault("first_line_s", time.monotonic() - started)
        if reached.search(line):
            seen["reached_s"] = time.monotonic() - started
            process.kill()
            break
    process.wait()
    seen.setdefault("reached_s", time.monotonic() - started)
    return {name: round(value, 1) for name, value in {**seen, "peak_mib": max(peak)}.items()}


def _watch_memory(pid: int) -> list[float]:
    """The largest resident set of a process so far, in MiB, in a list that grows while it runs."""
    found = [0.0]

    def watch() -> None:
        while True:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            if "VmHWM" not in status:
                return
            found.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="reading large files")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=500)
    options = parser.parse_args()
    folder, size = options.folder, options.megabytes
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store"
    base = [
        "pretrain",
        "--tokens",
        "20000",
        "--width",
        "32",
        "--layers",
        "1",
        "--heads",
        "2",
        "--store",
        str(store),
    ]
    subprocess.run([sys.executable, "-m", "stages.cli", *base], check=True, capture_output=True)
    write(folder / "short.jsonl", size, {"prompt": "", "completion": "yes"})
    write(folder / "long.jsonl", size, {"prompt": "", "completion": "a red kite and a blue boat " * 600})
    write(
        folder / "emoji.jsonl",
        size,
        {"prompt": "", "completion": "yes"},
        {"prompt": "odd", "completion": "🙂"},
    )
    for name in ("short", "long", "emoji"):
        command = ["sft", "--data", str(folder / f"{name}.jsonl"), "--name", name, "--store", str(store)]
        print(name, json.dumps(watched([*command, "--max-length", "64"], STEP)), flush=True)
    prompts = [
        "sample",
        "--policy",
        "base",
        "--prompts",
        str(folder / "short.jsonl"),
        "--num-prompts",
        "3",
        "--k",
        "2",
    ]
    print(
        "three prompts",
        json.dumps(watched([*prompts, "--store", str(store)], re.compile("answers to each of 3"))),
        flush=True,
    )
    write(folder / "rankings.jsonl", size // 5, {"prompt": "", "completions": ["yes", "no"], "ranks": [0, 1]})
    imported = ["labels", "import", str(folder / "rankings.jsonl"), "--batch", "large", "--store", str(store)]
    print("import", json.dumps(watched(imported, re.compile("\0"))), flush=True)


if __name__ == "__main__":
    main()
