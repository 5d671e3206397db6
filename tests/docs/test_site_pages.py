"""The pages that the documentation site makes of the program itself."""

import importlib.util
from pathlib import Path

from stages.cli.main import parser
from stages.cli.options import HelpAll

ROOT = Path(__file__).parents[2]


def site_pages():
    """docs/site_pages.py, which is a plugin of the site's builder and no package."""
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_of_a_command_is_in_its_section():
    pages = site_pages()
    sections = dict(part.split("`", 1) for part in pages.command_page().split("\n## `")[1:])
    hidden = 0
    for name, command in pages.commands(parser()):
        for action in command._actions:
            if isinstance(action, HelpAll):
                hidden += len(action.hidden)
                action.show_hidden()
        flags = [flag for action in command._actions for flag in action.option_strings]
        assert [flag for flag in flags if flag not in sections[name]] == [], name
    assert hidden > 50
