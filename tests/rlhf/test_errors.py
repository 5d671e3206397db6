"""What a library says, in one line of ours."""

import pytest

from rlhf.errors import first_line


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ValueError("no such file\nand much more\nabout it"), "no such file"),
        (OSError("\n\n  a message that begins with empty lines\r\nTraceback"), "a message that begins with empty lines"),
        (EOFError(), "EOFError"),  # says nothing: `splitlines()[0]` would itself be an error
        (ValueError(" \n "), "ValueError"),
        ("a text\nof two lines", "a text"),
    ],
)  # fmt: skip
def test_a_librarys_message_is_one_line_and_never_empty(problem, line):
    assert first_line(problem) == line
