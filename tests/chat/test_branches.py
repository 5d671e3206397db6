"""What of a conversation's tree is exported: every branch to its last answer."""

import pytest

from annotate.chat.conversations import StoredMessage
from annotate.chat.tree import Tree, branches, hidden_models, turn_json


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


def answer_of_pair(number, place, **sampling):
    pair = {"id": "q", "place": place, "blind": True}
    return StoredMessage(number, 1, "assistant", "so", True, "ppo", {"pair": pair, **sampling}, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ({"system": "Be polite."}, {"system": "Be polite.", "seed": 2}, {2, 3}),
        ({"dropped": 2}, {"dropped": 4}, set()),  # models of two contexts: there is no choice to make
    ],
)
def test_a_blind_pair_is_hidden_as_long_as_there_is_a_choice(first, second, hidden):
    tree = Tree(
        1, {1: turn(1, None, "user"), 2: answer_of_pair(2, 0, **first), 3: answer_of_pair(3, 1, **second)}
    )
    assert hidden_models(tree, []) == hidden
    ids = {turn_json(tree.nodes[number], False)["prompt_id"] for number in (2, 3)}
    assert (len(ids) == 1) == bool(hidden)
