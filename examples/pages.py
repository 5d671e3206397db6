"""Fills docs/talk/ from the result files: every number and picture of a page comes from there, none is typed by hand.

python -m examples.pages      (templates: examples/pages/NAME.md, results: docs/talk/results/NAME.json)
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import jinja2

from examples import lstm_page, results, scaling_page, small_machine_page, tables, texts_page, useful_page
from rlhf.measuring import plots

TEMPLATES = Path(__file__).parent / "pages"


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

    def intervals(self, alt, rows):
        """A dot with its interval for each name: shares."""
        return self.picture(alt, plots.intervals("", rows))

    def bars(self, alt, rows, share=False):
        return self.picture(alt, plots.bars("", rows, share))


def machine(result):
    """One line: settings, processor, threads, load, day, and the time that it took."""
    at, settings = result["machine"], result["settings"]
    given = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
    return (
        f"*{given}. {at['processor']}, {at['cores']} cores, {at['threads']} thread(s), load {at['load']} at the end, "
        f"torch {at['torch']}, {at['day']}; {result['seconds'] / 60:.1f} minutes.*"
    )


def answer_of(folder, name):
    """The answer that a page, filled before, gives."""
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    return text.partition("**Answer.** ")[2].partition("\n\n")[0].replace("\n", " ")


def fill(name, results_folder, folder):
    """One page from its template, and from its result file where it has one."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for module in (tables, lstm_page, scaling_page, small_machine_page, texts_page, useful_page):
        environment.globals.update({key: value for key, value in vars(module).items() if callable(value)})
    environment.globals.update(machine=machine, answer_of=partial(answer_of, folder))
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
    # The start pages quote the others.
    for template in sorted(TEMPLATES.glob("*.md"), key=lambda path: path.stem.startswith("index")):
        has_result = (given.results / f"{template.stem}.json").exists()
        if has_result or template.stem.startswith("index"):
            fill(template.stem, given.results, given.out)


if __name__ == "__main__":
    main()
