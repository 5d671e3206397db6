"""How many examples a test takes: few where all tests run, FUZZ_TIMES as many where `make fuzz` runs it."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))

NUMBERS = (
    st.integers(-3, 12)
    | st.floats()
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30, -(2**63) - 1, 1e308, -0.0])
)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a" * 5000,
        "\ud800",
        "\r\n",
        "../..",
        "'; --",
        "%s",
        "{{ x }}",
        "\u202e",
        "\ufeff",
        "1e400",
        "NaN",
        "-1",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def examples(number):
    """Settings of a test that takes so many."""
    return settings(max_examples=number * TIMES, suppress_health_check=list(HealthCheck))


@st.composite
def changed(draw, value):
    """A value like this one, with something in it left out, put in or replaced."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(value, key=str)))
        rest = {key: each for key, each in value.items() if key != name}
        if not draw(st.integers(0, 4)):
            return rest
        return {**rest, name: draw(changed(value[name]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(ANYTHING)
