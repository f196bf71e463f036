"""Values as hypothesis draws them for settings, and what it means that they were taken or refused."""

import pytest
from hypothesis import strategies as st

from clbench.errors import ClbenchError

SUITE = "permuted-digits"

more = pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])


# Characters that can stand in an argument of a command: all but NUL.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([0, 1, -0.0, 10**30, 10**400, 2**53 + 1, 5e-324, 1e308]),
)
scalars = st.one_of(numbers, st.booleans(), st.none(), texts, st.sampled_from(["adam", "sgd", "linear", "random"]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2), max_leaves=5
)


WORDS = ["adam", "sgd", "rmsprop", "linear", "constant", "sorted", "random", "exact", "sample", "global", "complex"]
# What a setting with such a value may take as well.
LIKE = {
    bool: st.booleans(),
    int: st.integers(1, 50) | st.sampled_from(["3", "2.0"]),
    float: st.floats(1e-6, 0.9) | st.sampled_from([0.5, 1, ".5", "1."]),
    str: st.sampled_from(WORDS),
    list: st.sampled_from([[0.5], [0.001, 0.002], 0.5, "0.5,1"]),
    tuple: st.sampled_from([[16, 16], 16, [7], "16,16"]),
    type(None): st.integers(1, 50) | st.none(),
}
fitting = st.one_of(*LIKE.values())


def attempt(call):
    """What the call gave and nothing, or None and how it was refused; anything else fails the test."""
    try:
        return call(), ""
    except ClbenchError as error:
        return None, str(error)


def means(recorded, given, otherwise):
    """Whether what is recorded is what was given; None stands for what holds otherwise."""
    if given is None:
        return recorded == otherwise or recorded is None
    if isinstance(recorded, bool) or isinstance(given, bool):
        return recorded is given
    if isinstance(recorded, int | float) and isinstance(given, int | float):
        # A whole number that is too long for a float is rounded as any other number is.
        return recorded == given or recorded == float(given)
    if isinstance(recorded, list | tuple):
        # One number stands for a list of one.
        listed = given if isinstance(given, list | tuple) else [given]
        return len(recorded) == len(listed) and all(means(r, g, None) for r, g in zip(recorded, listed, strict=True))
    return type(recorded) is type(given) and recorded == given
