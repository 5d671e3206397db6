"""The labeling app from Python, with a page of one's own."""

import importlib
import sys
from pathlib import Path
from typing import Any

from annotate.app.settings import AppSettings, Page
from rlhf.errors import InputError, first_line


class Labeling:
    """The labeling app over a database, with the labelers' page that `page` makes (the usual one without it).

    settings: as in AppSettings (annotate/app/settings.py): host, port, proxy_header, lease_minutes …
    """

    def __init__(self, database: str | Path | None = None, page: Page | None = None, **settings: Any) -> None:
        self.database = database
        self.page = page
        self.settings = settings

    def launch(self) -> None:
        """Serve until Ctrl-C. Raises InputError for an address in use, LabelError for a database that cannot be opened."""
        from annotate.app.server import create_app, serve
        from annotate.labels import LabelStore

        with LabelStore(self.database) as store:
            serve(create_app(store, AppSettings(**self.settings), page=self.page), _say)


def labeling(database: str | Path | None = None, page: Page | None = None, **settings: Any) -> Labeling:
    """The labeling app: `labeling("labels.db", page=my_page).launch()`."""
    return Labeling(database, page, **settings)


def page_named(name: str) -> Page:
    """The page that MODULE:FUNCTION names; modules are also looked for in the current folder. Raises InputError."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"--page {name}: write it as MODULE:FUNCTION, such as my_pages:ranking")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise InputError(f"--page {name}: there is no module {error.name}") from None
    except AttributeError:
        raise InputError(f"--page {name}: the module has no {function}") from None
    except Exception as problem:  # whatever its own code raises
        reason = f"{type(problem).__name__}: {first_line(problem)}"
        raise InputError(f"--page {name}: the module cannot be imported: {reason}") from problem
    if not callable(found):
        raise InputError(f"--page {name}: {function} is no function")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
