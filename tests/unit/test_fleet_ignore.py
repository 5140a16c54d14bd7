"""What a snapshot leaves out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.fleet.ignore import DEFAULTS, ignored, patterns

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0"),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize(
    ("text", "path", "is_directory", "expected"),
    [
        ("", "a", False, False),
        ("a", "a", False, True),
        ("a", "b/a", False, True),
        ("a", "ab", False, False),
        ("# a", "# a", False, False),
        ("/a", "b/a", False, False),
        ("/a", "a", False, True),
        ("b/a", "b/a", False, True),
        ("b/a", "c/b/a", False, False),
        ("a/", "a", False, False),
        ("a/", "a", True, True),
        ("b/a/", "b/a", True, True),
        ("*.py", "x/y.py", False, True),
        ("*.py", ".py", False, True),
        ("x/*.py", "x/y/z.py", False, False),
        ("x/**/z", "x/z", False, True),
        ("x/**/z", "x/a/b/z", False, True),
        ("**/z", "a/z", False, True),
        ("x/**", "x/a/b", False, True),
        ("a?c", "abc", False, True),
        ("a?c", "a/c", False, False),
        ("[ab]", "b", False, True),
        ("[a-c]x", "bx", False, True),
        ("[!ab]", "a", False, False),
        ("[!ab]", "c", False, True),
        ("[^ab]", "c", False, True),
        ("[]a]", "]", False, True),
        ("[z-a]", "[z-a]", False, True),
        ("[", "[", False, True),
        ("a.b", "axb", False, False),
        ("*\n!keep", "keep", False, False),
        ("*\n!keep", "drop", False, True),
        ("!a\na", "a", False, True),
        ("a   ", "a", False, True),
        (DEFAULTS, ".git", True, True),
        (DEFAULTS, "x/node_modules", True, True),
        (DEFAULTS, "node_modules", False, False),
        (DEFAULTS, "x/y.pyc", False, True),
        (DEFAULTS + "!node_modules", "node_modules", True, False),
        (DEFAULTS, "requirements.txt", False, False),
    ],
)
def test_pattern(text, path, is_directory, expected):
    assert ignored(patterns(text), path, is_directory) is expected


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(NAMES, min_size=1, max_size=4), st.booleans())
def test_any_text_is_a_pattern_file(text, path, is_directory):
    assert ignored(patterns(text), "/".join(path), is_directory) in (True, False)


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), st.booleans())
def test_a_star_for_everything_takes_everything_and_an_exception_takes_it_back(path, is_directory):
    whole = "/".join(path)
    assert ignored(patterns("*"), whole, is_directory)
    assert not ignored(patterns("*\n!*"), whole, is_directory)


@settings(deadline=None)
@given(st.text("abc.-_", min_size=1, max_size=8).filter(lambda n: n not in (".", "..")), st.lists(NAMES, max_size=3))
def test_a_plain_name_is_left_out_wherever_it_lies(name, above):
    assert ignored(patterns(name), "/".join([*above, name]), False)
