"""Agreement against hand-computed numbers and against the krippendorff package."""

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from annotate.answers.agreement import (
    Group,
    agreement,
    agreement_by_labeler,
    agreement_of,
    alpha_of,
    consensus_of,
    disagreement_share,
    groups_of,
)
from rlhf.data import Ranking


def ranked(labeler, ranks, prompt="q"):
    return Ranking(
        prompt=prompt, completions=tuple("abcdefghi"[: len(ranks)]), ranks=tuple(ranks), labeler=labeler
    )


def test_hand_computed():
    found = agreement([ranked("x", (0, 1, 2)), ranked("y", (0, 1, 1))])
    # ab alike, ac alike, bc preferred by one and tied by the other
    assert found.percent == pytest.approx(2 / 3)
    assert found.decided == 1.0
    assert (found.pairs, found.decided_pairs) == (3, 2)


def test_decided_pairs_are_those_on_which_two_labelers_prefer_an_answer():
    groups = groups_of(
        [ranked("x", (0, 1, 1)), ranked("y", (1, 0, 0)), ranked("z", (0, 0, 0)), ranked("x", (0, 1), "alone")]
    )
    assert (agreement_of(groups).pairs, agreement_of(groups).decided_pairs) == (3, 2)
    by_labeler = {
        name: (found.pairs, found.decided_pairs) for name, found in agreement_by_labeler(groups).items()
    }
    assert by_labeler == {"x": (3, 2), "y": (3, 2), "z": (3, 0)}


def test_the_order_completions_are_stored_in_does_not_matter():
    turned = Ranking(prompt="q", completions=("b", "a"), ranks=(1, 0), labeler="y")
    assert agreement([ranked("x", (0, 1)), turned]).percent == 1.0


def test_undefined_is_said_and_not_computed():
    assert "no two labelers" in agreement([ranked("x", (0, 1))]).undefined
    tied = agreement([ranked("x", (0, 0)), ranked("y", (0, 0))])
    assert tied.alpha is None and "all judgements are ties" in tied.undefined and tied.percent == 1.0
    unanimous = agreement([ranked("x", (0, 1)), ranked("y", (0, 1))])
    assert unanimous.alpha == unanimous.percent == 1.0


rows = st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=2, max_size=4)


@settings(max_examples=150)
@given(st.lists(rows, min_size=2, max_size=6))
def test_alpha_equals_the_oracle(by_prompt):
    rankings = [
        ranked(f"labeler {i}", ranks, f"prompt {p}")
        for p, labelers in enumerate(by_prompt)
        for i, ranks in enumerate(labelers)
    ]
    pairs = ((0, 1), (0, 2), (1, 2))
    table = np.full((4, 6 * len(by_prompt)), np.nan)  # labelers × pairs of answers from either side: −1, 0, 1
    for p, labelers in enumerate(by_prompt):
        for i, ranks in enumerate(labelers):
            signs = [np.sign(ranks[a] - ranks[b]) for a, b in pairs]
            table[i, 6 * p : 6 * p + 6] = [*signs, *(-sign for sign in signs)]
    assume(len(np.unique(table[~np.isnan(table)])) > 1)
    doubled = krippendorff.alpha(table, level_of_measurement="nominal", value_domain=[-1, 0, 1])
    # α = 1 − (n − 1) · observed / expected counts n judgements, of which the table holds each twice.
    n = 3 * sum(map(len, by_prompt))
    expected = 1 - (1 - doubled) * (n - 1) / (n - 1 / 2)
    found = agreement(rankings)
    assert found.alpha == pytest.approx(expected, abs=1e-9)
    turned = [
        Ranking(prompt=r.prompt, completions=r.completions, ranks=r.ranks[::-1], labeler=r.labeler)
        if r.prompt == "prompt 0"
        else r
        for r in rankings
    ]
    assert agreement(turned).alpha == pytest.approx(found.alpha, abs=1e-9)
    assert agreement(turned).alpha_ci95 == pytest.approx(found.alpha_ci95, abs=1e-9)


@settings(max_examples=60)
@given(st.lists(rows, min_size=1, max_size=4))
def test_shares_equal_counting_one_by_one(by_prompt):
    groups = [
        Group(str(p), [f"labeler {i}" for i in range(len(labelers))], np.array(labelers))
        for p, labelers in enumerate(by_prompt)
    ]
    same, by_labeler, consensus = [], {}, {}
    for labelers in by_prompt:
        for a, b in ((0, 1), (0, 2), (1, 2)):
            said = [np.sign(ranks[a] - ranks[b]) for ranks in labelers]
            together = [x == y for i, x in enumerate(said) for j, y in enumerate(said) if i != j]
            same.append(np.mean(together))
            for i, own in enumerate(said):
                others = [y for j, y in enumerate(said) if j != i]
                by_labeler.setdefault(f"labeler {i}", []).extend(own == y for y in others)
                for value in (-1, 0, 1):
                    if 2 * others.count(value) > len(others):
                        consensus.setdefault(f"labeler {i}", []).append(own == value)
    assert agreement_of(groups).percent == pytest.approx(np.mean(same))
    found = agreement_by_labeler(groups)
    assert {name: one.percent for name, one in found.items()} == pytest.approx(
        {name: np.mean(equal) for name, equal in by_labeler.items()}
    )
    counted = {
        name: (sum(right for _, right, _ in rows), sum(pairs for _, _, pairs in rows))
        for name, rows in consensus_of(groups).items()
    }
    assert {name: pair for name, pair in counted.items() if pair[1]} == {
        name: (sum(equal), len(equal)) for name, equal in consensus.items()
    }
    assert [disagreement_share(group.ranks) for group in groups] == pytest.approx(
        [1 - np.mean(same[3 * p : 3 * p + 3]) for p in range(len(groups))]
    )


def test_krippendorffs_published_example():
    """Krippendorff 2011, example C in nominal form: four observers, twelve units, α = 0.743."""
    nan = np.nan
    table = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ])  # fmt: skip
    coincidences = np.zeros((5, 5))
    for column in table.T:
        counts = np.bincount(column[~np.isnan(column)].astype(int) - 1, minlength=5).astype(float)
        if counts.sum() > 1:
            coincidences += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    assert alpha_of(coincidences) == pytest.approx(0.743, abs=5e-4)


def test_agreeing_every_time_on_a_few_prompts_is_no_certainty():
    alike = [Group(f"p{i}", ["ann", "ben"], np.array([[0, 1], [0, 1]])) for i in range(3)]
    other = [Group(f"q{i}", ["ann", "ben"], np.array([[1, 0], [1, 0]])) for i in range(3)]
    found = agreement_of(alike + other)
    assert found.alpha == 1.0 and found.alpha_ci95[1] == 1.0 and found.alpha_ci95[0] < 0.5


def test_alphas_interval_covers():
    rng, held, rounds = np.random.default_rng(0), 0, 200
    for _ in range(rounds):
        true = rng.integers(0, 2, 60)
        seen = [np.where(rng.random(60) < 0.9, true, 1 - true) for _ in range(2)]
        ranks = [np.array([[a[i], 1 - a[i]] for a in seen]) for i in range(60)]
        low, high = agreement_of(
            [Group(f"p{i // 2}", ["ann", "ben"], rank) for i, rank in enumerate(ranks)]
        ).alpha_ci95
        held += low <= (0.9 - 0.1) ** 2 <= high  # two noisy views agree on 0.82, by chance on 0.5
    assert held / rounds >= 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5
