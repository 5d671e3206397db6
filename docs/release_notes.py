"""Print the section of CHANGELOG.md for one version: `python docs/release_notes.py [VERSION]`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def section(changelog: str, version: str) -> str:
    """The text under the heading of a version. Raises SystemExit where there is none."""
    found = re.search(
        rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise SystemExit(f"CHANGELOG.md: no section for version {version}")
    return found[1].strip()


if __name__ == "__main__":
    current = re.search(r'__version__ = "(.+)"', (ROOT / "rlhf/__init__.py").read_text())
    version = sys.argv[1] if len(sys.argv) > 1 else current[1] if current else ""
    print(section((ROOT / "CHANGELOG.md").read_text(), version))
