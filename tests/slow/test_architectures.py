"""Every row of docs/architectures.md is what is found when it is tried again, and there is one for every architecture."""

import pytest

from tests.slow.architectures import DOC, line, tried
from tests.slow.tiny_architectures import NAMES

ROWS = {
    row.split("|")[1].strip(): row
    for row in DOC.read_text().splitlines()
    if row.startswith("| ") and not row.startswith("| architecture")
}


@pytest.mark.slow
def test_every_architecture_is_in_the_table():
    assert set(ROWS) == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table_is_what_is_found(name):
    assert line(name, tried(name)) == ROWS[name]
