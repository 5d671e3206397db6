"""Every row of docs/architectures.md is what is found when it is tried again."""

import pytest

from tests.slow.architectures import DOC, table, tried

ROWS = [line for line in DOC.read_text().splitlines() if line.startswith("| ") and "SFT gradient" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_of_the_table_is_what_is_found(row):
    name = row.split("|")[1].strip()
    assert table({name: tried(name)}).splitlines()[-1] == row
