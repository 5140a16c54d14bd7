"""Profiles as values, in pprof's format, and as text."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import GaplessError
from gapless.observe.profile import Frame, Measure, Profile, merged, pprof
from gapless.observe.profile.top import collapsed, rows, top
from gapless.observe.profile.values import from_plain, grown, plain

CPU = (Measure("samples", "count"), Measure("cpu", "nanoseconds"))
frames = st.builds(Frame, st.text(max_size=5), st.sampled_from(["a.py", "b.py", ""]), st.integers(0, 300))
stacks = st.lists(frames, min_size=1, max_size=4).map(tuple)
profiles = st.builds(
    Profile,
    st.just(CPU),
    st.dictionaries(stacks, st.tuples(st.integers(0, 2**40), st.integers(0, 2**60)), max_size=5),
    at=st.integers(0, 2_000_000_000).map(float),
    took_s=st.integers(0, 60).map(float),
    note=st.text(max_size=5),
)
A, B, C = Frame("a", "a.py", 1), Frame("b", "b.py", 2), Frame("c", "c.py", 3)


@given(profiles)
def test_pprof_and_json_give_the_profile_again(profile: Profile) -> None:
    assert pprof.decode(pprof.encode(profile)) == profile
    assert from_plain(plain(profile)) == profile


def official() -> Any:
    """The part of profile.proto that matters, by Google's own protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto3")
    kinds = {"int": 3, "uint": 4, "text": 9, "message": 11}

    def message(name: str, *fields: tuple[int, str, str, bool]) -> None:
        made = file.message_type.add(name=name)
        for number, field, kind, many in fields:
            added = made.field.add(name=field, number=number, label=3 if many else 1)
            added.type = kinds.get(kind, 11)
            if kind not in kinds:
                added.type_name = f".p.{kind}"

    message("ValueType", (1, "type", "int", False), (2, "unit", "int", False))
    message("Sample", (1, "location_id", "uint", True), (2, "value", "int", True))
    message("Line", (1, "function_id", "uint", False), (2, "line", "int", False))
    message("Location", (1, "id", "uint", False), (4, "line", "Line", True))
    message("Function", (1, "id", "uint", False), (2, "name", "int", False), (4, "filename", "int", False))
    message(
        "Profile",
        (1, "sample_type", "ValueType", True),
        (2, "sample", "Sample", True),
        (4, "location", "Location", True),
        (5, "function", "Function", True),
        (6, "string_table", "text", True),
        (9, "time_nanos", "int", False),
        (10, "duration_nanos", "int", False),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Profile"))


def test_others_read_what_we_write() -> None:
    written = pprof.encode(Profile(CPU, {(A, B): (2, 20_000_000)}, at=7.0, took_s=1.5))
    read = official().FromString(gzip.decompress(written))
    text = read.string_table
    assert text[0] == ""
    assert [(text[kind.type], text[kind.unit]) for kind in read.sample_type] == [tuple(measure) for measure in CPU]
    functions = {f.id: (text[f.name], text[f.filename]) for f in read.function}
    places = {p.id: (*functions[p.line[0].function_id], p.line[0].line) for p in read.location}
    (sample,) = read.sample
    assert [places[number] for number in sample.location_id] == [tuple(A), tuple(B)]
    assert list(sample.value) == [2, 20_000_000]
    assert (read.time_nanos, read.duration_nanos) == (7_000_000_000, 1_500_000_000)


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"\x12\xff"), pprof.encode(Profile(CPU, {}))[:-4]],
    ids=["empty", "nonsense", "a field cut short", "an archive cut short"],
)
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(GaplessError, match="no profile"):
        pprof.decode(data)


@given(profiles, profiles)
def test_nothing_is_lost_when_profiles_are_put_together(one: Profile, other: Profile) -> None:
    both = merged([one, other])
    assert both.total() == one.total() + other.total()
    assert both.total(0) == one.total(0) + other.total(0)
    assert grown(one, both).total() == other.total()


def test_profiles_of_different_things_do_not_go_together() -> None:
    with pytest.raises(GaplessError, match="different things"):
        merged([Profile(CPU, {}), Profile(CPU[:1], {})])
    with pytest.raises(GaplessError, match="no worker"):
        merged([])


@given(profiles)
def test_what_is_found_in_functions_is_all_there_is(profile: Profile) -> None:
    found = rows(profile)
    assert sum(row.flat for row in found) == profile.total()
    assert all(row.flat <= row.cum <= profile.total() for row in found)


def test_a_function_that_calls_itself_counts_once() -> None:
    profile = Profile(CPU, {(A, B, A): (1, 10), (C,): (1, 5)})
    assert [(row.place.name, row.flat, row.cum) for row in rows(profile)] == [("a", 10, 10), ("c", 5, 5), ("b", 0, 10)]


def test_the_table_is_for_people() -> None:
    profile = Profile(CPU, {(A, B): (1, 3_000_000_000), (C,): (1, 1_000_000_000)}, took_s=10.0)
    head, _, first, *_ = top(profile)
    assert head == "4 s of cpu in 10.0 s"
    assert first.split() == ["3", "75.0%", "3", "75.0%", "a", "a.py:1"]
    assert top(Profile(CPU, {}))[1] == "Nothing was found: nothing ran meanwhile."
    assert top(Profile((Measure("space", "bytes"),), {(A,): (2_500,)}))[0] == "2.500 kB of space in 0.0 s"
    assert collapsed(profile) == "b;a 3000000000\nc 1000000000\n"
