"""What of a conversation's tree is exported: every branch to its last answer."""

import pytest

from annotate.chat.conversations import StoredMessage
from annotate.chat.tree import Tree, branches


def turn(number, parent, role):
    return StoredMessage(number, parent, role, f"{role} {number}", None, "", {}, 0.0)


@pytest.mark.parametrize(
    "turns, ends",
    [
        ([], []),
        ([(1, None, "user")], []),
        ([(1, None, "user"), (2, 1, "assistant")], [2]),
        ([(1, None, "user"), (2, 1, "assistant"), (3, 2, "user")], [2]),  # the last question failed
        ([(1, None, "user"), (2, 1, "assistant"), (3, 2, "user"), (4, 3, "assistant")], [4]),
        ([(1, None, "user"), (2, 1, "assistant"), (3, 2, "user"), (4, 2, "user"), (5, 4, "assistant")], [5]),
        ([(1, None, "user"), (2, 1, "assistant"), (3, 1, "assistant"), (4, 3, "user")], [2, 3]),
    ],
)
def test_a_branch_is_exported_to_its_last_answer(turns, ends):
    tree = Tree(1, {number: turn(number, parent, role) for number, parent, role in turns})
    rows = branches(tree, [])
    assert [row["messages"][-1]["content"] for row in rows] == [f"assistant {end}" for end in ends]
