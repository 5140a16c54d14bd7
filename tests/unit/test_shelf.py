"""A shelf answers as a dictionary would whose keys are sorted for each question."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gapless.control.shelf import Shelf

PREFIXES = ("a/", "a/b/", "a/b0/", "b/", "c/")
KEYS = st.builds(str.__add__, st.sampled_from(PREFIXES), st.text("0b/z\U0010ffff", max_size=3))


@given(
    st.dictionaries(KEYS, st.integers(), max_size=5), st.lists(st.tuples(KEYS, st.none() | st.integers()), max_size=30)
)
def test_whatever_is_put_and_removed(first: dict[str, int], acts: list[tuple[str, int | None]]) -> None:
    shelf, plain = Shelf(first), dict(first)
    for key, value in acts:
        if value is None:
            shelf.remove(key)
            plain.pop(key, None)
        else:
            shelf.put(key, value)
            plain[key] = value
        assert shelf.get(key) == plain.get(key)
        for prefix in PREFIXES:
            below = [key for key in sorted(plain) if key.startswith(prefix)]
            assert shelf.below(prefix) == tuple(plain[key] for key in below)
            assert shelf.newest(prefix) == max(below, default="")
    assert shelf.newest() == max(plain, default="")
    assert list(reversed(shelf)) == [plain[key] for key in sorted(plain, reverse=True)]
