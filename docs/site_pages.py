"""The pages of the site that are made: the start page from README.md, commands from the parser, Python from docstrings.

mkdocs calls `on_files`; `make docs` builds with every warning an error. A public name without a docstring is one.
"""

import argparse
import ast
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PUBLIC = (
    "stages.ppo.trainer",
    "stages.ppo.loop",
    "stages.settings",
    "rlhf.store",
    "rlhf.splits",
    "rlhf.models.checkpoints",
    "rlhf.models.gpt",
    "rlhf.sampling.generate",
    "rlhf.learning.rollout",
    "rlhf.learning.passes",
    "rlhf.learning.rewards",
    "rlhf.learning.rl",
    "rlhf.learning.losses",
    "rlhf.learning.optimizers",
    "rlhf.measuring.evaluate",
    "rlhf.serving.completions",
    "annotate.labels",
    "annotate.work.batches",
    "annotate.work.submit",
)
# What torch and transformers call by these names means what it means there.
THEIRS = {"forward", "step", "parameters", "state_dict", "load_state_dict", "save_pretrained"}
THEIRS |= {"get_input_embeddings", "set_input_embeddings"}
log = logging.getLogger("mkdocs.site")


def start_page() -> str:
    """README.md as the first page: its links into docs/ become links beside it, those to folders and files code."""
    text = (ROOT / "README.md").read_text()
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?:CONTRIBUTING|SECURITY|LICENSE)[^)]*\)", r"`\1`", text)


def commands(
    parser: argparse.ArgumentParser, path: str = "rlhf"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command below a parser that has no commands of its own, with its whole name."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield path, parser
    for action in inner:
        for name, command in action.choices.items():
            yield from commands(command, f"{path} {name}")


def command_page() -> str:
    """All commands with their whole help, from the parser that runs them."""
    from stages.cli.main import parser
    from stages.cli.options import HelpAll

    parts = ["# Commands\n\nMade from the command line's own parser; of stages what `--help-all` shows."]
    for name, command in commands(parser()):
        for action in command._actions:
            if isinstance(action, HelpAll):
                action.show_hidden()
        parts.append(f"## `{name}`\n\n```text\n{command.format_help().strip()}\n```")
    return "\n\n".join(parts) + "\n"


def python_page() -> str:
    """The public modules, by their docstrings."""
    parts = [
        "# Python\n\nThe modules that programs and notebooks use; their docstrings say shapes, types and errors."
    ]
    return "\n\n".join(parts + [f"## `{name}`\n\n::: {name}" for name in PUBLIC]) + "\n"


def without_docstring() -> list[str]:
    """Public functions, classes and methods of the public modules that say nothing of themselves."""
    missing = []
    for module in PUBLIC:
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        missing += [f"{module}.{name}" for name, node in public_names(tree) if not ast.get_docstring(node)]
    return missing


def public_names(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names of definitions that do not begin with an underscore, methods included; torch's own verbs aside."""
    for node in tree.body:
        if not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) or node.name.startswith("_"):
            continue
        if node.name in THEIRS:
            continue
        if any(getattr(mark, "id", "") == "overload" for mark in node.decorator_list):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_names(node, f"{prefix}{node.name}.")


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages."""
    from mkdocs.structure.files import File

    for name in without_docstring():
        log.warning("%s has no docstring", name)
    pages = {"index.md": start_page, "commands.md": command_page, "python.md": python_page}
    for name, page in pages.items():
        files.append(File.generated(config, name, content=page()))
    return files
