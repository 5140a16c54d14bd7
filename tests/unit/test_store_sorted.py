"""Keys in order, against a plain sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gapless.store import _sorted
from gapless.store._sorted import SortedKeys

KEYS = st.text("ab/", min_size=1, max_size=5)


@given(st.sets(KEYS), st.lists(st.tuples(st.booleans(), KEYS), max_size=60), st.text("ab/", max_size=3))
def test_it_is_a_sorted_list(begin: set[str], moves: list[tuple[bool, str]], prefix: str) -> None:
    full, _sorted.FULL = _sorted.FULL, 4
    try:
        keys, model = SortedKeys(begin), set(begin)
        for add, key in moves:
            if add and key not in model:
                keys.add(key)
                model.add(key)
            elif not add and key in model:
                keys.remove(key)
                model.discard(key)
            assert list(keys.below("")) == sorted(model)
            assert list(keys.below(prefix)) == sorted(k for k in model if k.startswith(prefix))
    finally:
        _sorted.FULL = full
