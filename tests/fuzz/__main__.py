"""`python -m tests.fuzz WHAT --minutes 60`: the tests of WHAT again and again, with other seeds, until something is found."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUBJECTS = {
    "templates": ["tests/fuzz/test_any_template.py"],
    "manifests": ["tests/fuzz/test_any_manifest.py"],
    "bodies": ["tests/chat/test_any_body.py", "tests/fuzz/test_any_label_request.py"],
    "uploads": ["tests/fuzz/test_any_upload.py", "tests/rlhf/data/test_any_value.py"],
}
SERVERS = ("label", "serve")  # by schemathesis
TIMES = 10
TRIED = re.compile(
    r"(\d+) passing(?: examples)?, \d+ failing"
)  # Hypothesis says "examples" here or at the end


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SUBJECTS, *SERVERS])
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    if options.what in SERVERS:
        from tests.fuzz.servers import fuzz

        fuzz(options.what, options.minutes)
        return
    started, rounds, tried = time.monotonic(), 0, 0
    while time.monotonic() - started < 60 * options.minutes:
        rounds += 1
        seed = time.time_ns() % 2**32
        command = [
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--hypothesis-show-statistics",
            f"--hypothesis-seed={seed}",
        ]
        done = subprocess.run(
            [sys.executable, "-m", *command, *SUBJECTS[options.what]],
            cwd=ROOT, env={**os.environ, "FUZZ_TIMES": str(TIMES)}, capture_output=True, text=True,
        )  # fmt: skip
        tried += sum(map(int, TRIED.findall(done.stdout)))
        minutes = (time.monotonic() - started) / 60
        print(f"{options.what}: {minutes:.1f} min, {rounds} rounds, {tried} examples", flush=True)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}\nseed {seed}: found after {minutes:.1f} min")


if __name__ == "__main__":
    main()
