"""`rlhf` as a person calls it, without the seconds that a new process takes to import torch."""

import contextlib
import io
import os
import subprocess
import sys

from stages.cli import main


def rlhf(*arguments, folder=None, input="", environment=None):
    """The finished command, run in this process from `folder`: exit status, stdout and stderr.

    Modules that it finds in the folder, such as a user's rewards, are forgotten afterwards.
    """
    before, path, out, err = set(sys.modules), list(sys.path), io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as undo:
        undo.enter_context(contextlib.chdir(folder or os.getcwd()))
        undo.enter_context(contextlib.redirect_stdout(out))
        undo.enter_context(contextlib.redirect_stderr(err))
        undo.enter_context(_replaced(sys, "stdin", io.StringIO(input)))
        undo.enter_context(_in_environment(environment or {}))
        here = os.getcwd()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's
            status = stop.code or 0
        for name in set(sys.modules) - before:
            file = str(getattr(sys.modules[name], "__file__", None) or "")
            if (
                file.startswith(here + os.sep) and "site-packages" not in file
            ):  # .venv stands in the folder, too
                del sys.modules[name]
        sys.path[:] = path
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _replaced(owner, name, value):
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextlib.contextmanager
def _in_environment(more):
    old = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)
