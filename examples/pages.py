"""Fills docs/talk/ from the result files: every number and picture of a page comes from there, none is typed by hand.

python -m examples.pages      (templates: examples/pages/NAME.md, results: docs/talk/results/NAME.json)
"""

import argparse
import json
import math
from pathlib import Path
from statistics import mean, stdev

import jinja2

from examples import results
from rlhf.measuring import plots

TEMPLATES = Path(__file__).parent / "pages"
# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Page:
    """What a template may use beside the results: pictures beside the page, tables, intervals over seeds."""

    def __init__(self, folder, name):
        self.folder, self.name, self.num_pictures = folder, name, 0

    def picture(self, alt, svg):
        """A picture in a file of its own, and the line that shows it."""
        self.num_pictures += 1
        file = f"{self.name}-{self.num_pictures}.svg"
        (self.folder / file).write_text(svg, encoding="utf-8")
        return f"![{alt}]({file})"

    def curves(self, alt, xlabel, lines, log=False):
        """Lines by name: lists of x and of y. log: x by its logarithm to base 2."""
        shown = {name: ([math.log2(value) for value in x] if log else x, y) for name, (x, y) in lines.items()}
        return self.picture(alt, plots.curves("", xlabel, shown))

    def bars(self, alt, rows, share=False):
        return self.picture(alt, plots.bars("", rows, share))


def table(header, rows):
    """A table in Markdown; the first column holds names, the others numbers."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def interval(values, digits=3):
    """Mean and half the width of its 95 % interval over seeds (Student's t); one value stands alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (one seed)"
    half = STUDENT[len(values) - 2] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def wilson(right, asked):
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / asked
    middle, half = (
        share + z * z / (2 * asked),
        z * math.sqrt(share * (1 - share) / asked + (z / asked) ** 2 / 4),
    )
    return (middle - half) / (1 + z * z / asked), (middle + half) / (1 + z * z / asked)


def shares(counts):
    """Shares by name of counts (right, asked)."""
    return {name: right / asked for name, (right, asked) in counts.items()}


def total_share(counts):
    """The share over all names."""
    return sum(right for right, _ in counts.values()) / sum(asked for _, asked in counts.values())


def share_rows(counts):
    """Rows of a table: name, right, asked, share and its interval."""
    rows = []
    for name, (right, asked) in counts.items():
        low, high = wilson(right, asked)
        rows.append([name, right, asked, f"{right / asked:.1%}", f"{low:.1%} to {high:.1%}"])
    return rows


def machine(result):
    """One line: settings, processor, threads, load, day, and the time that it took."""
    at, settings = result["machine"], result["settings"]
    given = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
    return (
        f"*{given}. {at['processor']}, {at['cores']} cores, {at['threads']} thread(s), load {at['load']} at the end, "
        f"torch {at['torch']}, {at['day']}; {result['seconds'] / 60:.1f} minutes.*"
    )


def lines_of(example):
    """How many lines an example has."""
    return len((TEMPLATES.parent / f"{example}.py").read_text().splitlines())


def fill(name, results_folder, folder):
    """One page from its template, and from its result file where it has one."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    helpers = (table, interval, machine, lines_of, shares, total_share, share_rows, mean, zip, round)
    environment.globals.update({helper.__name__: helper for helper in helpers})
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results_folder.glob("*.json")}
    text = (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")
    filled = environment.from_string(text).render(
        page=Page(folder, name), result=read.get(name), found=read.get(name, {}).get("found"), all=read
    )
    (folder / f"{name}.md").write_text(filled, encoding="utf-8")


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--results", type=Path, default=results.FOLDER)
    asked.add_argument("--out", type=Path, default=results.FOLDER.parent)
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for template in sorted(TEMPLATES.glob("*.md")):
        has_result = (given.results / f"{template.stem}.json").exists()
        if has_result or template.stem.startswith("index"):
            fill(template.stem, given.results, given.out)


if __name__ == "__main__":
    main()
