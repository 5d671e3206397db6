"""Every error a user can cause. The command line prints these in one line; anything else is a bug.

RLHFError
├── InputError        a file, row, prompt or setting that cannot be used
│   └── NoSuchData    a source that holds no data of the use it was asked for
├── StoreError        a checkpoint reference or entry that is unknown, damaged or in the way
├── LabelError        a label-store request that cannot be met
├── TrainingError     training that cannot go on, such as a non-finite loss
└── EngineError       an answer the serving engine could not give
    ├── BusyError     too many are waiting for one already
    └── ClosedError   the server is shutting down
"""

import re

PASSWORD = re.compile(r"(?<=password=)[^&\s]*")


def without_password(url: str) -> str:
    """A database's URL as it may be shown: whatever stands where a password does is ***."""
    scheme, found, rest = url.partition("://")
    name, at, host = rest.rpartition("@")
    if found and at:
        account, colon, _ = name.partition(":")
        rest = f"{account}:***@{host}" if colon else rest
    return PASSWORD.sub("***", f"{scheme}{found}{rest}")


class RLHFError(Exception):
    """What is wrong, where, and what to do, in one line."""


class InputError(RLHFError):
    """A file, row, prompt or setting that cannot be used.

    param: the parameter of a request to the engine whose fault it is, as the engine calls it; `prompt` for what is
    answered. code: OpenAI's word for what is wrong.
    """

    def __init__(self, message: str, *, param: str = "", code: str = "") -> None:
        super().__init__(message)
        self.param, self.code = param, code


class NoSuchData(InputError):
    """A source that holds no data of the use it was asked for."""


class StoreError(RLHFError):
    """A checkpoint reference or entry that is unknown, damaged or in the way."""


class LabelError(RLHFError):
    """A label-store request that cannot be met."""


class TrainingError(RLHFError):
    """Training that cannot go on, such as a non-finite loss."""


class EngineError(RLHFError):
    """An answer the serving engine could not give."""


class BusyError(EngineError):
    """Too many are waiting for an answer already."""


class ClosedError(EngineError):
    """The engine is shutting down, or has."""


def is_panic(problem: BaseException) -> bool:
    """Whether native code written in Rust has met what it did not expect: to Python that is no Exception."""
    return type(problem).__module__ == "pyo3_runtime"


def first_line(problem: object) -> str:
    """A library's message without what follows its first line; the name of the error where it says nothing."""
    return next((line.strip() for line in f"{problem}".splitlines() if line.strip()), type(problem).__name__)
