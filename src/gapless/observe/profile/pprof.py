"""Profiles in pprof's format (profile.proto, gzipped), which `go tool pprof` and speedscope open.

Source: github.com/google/pprof, proto/profile.proto. Protocol buffers are written by hand because there is so little of
them, and a service that only wants to be profiled need not install protobuf.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator

from gapless.core.errors import GaplessError
from gapless.observe.profile.values import Frame, Measure, Profile

_VARINT, _BYTES = 0, 2
NANOSECONDS = 1_000_000_000


def encode(profile: Profile) -> bytes:
    """profile.proto, gzipped."""
    texts = _Texts()
    out = bytearray()
    for measure in profile.measures:
        _put(out, 1, _value_type(measure, texts))
    places: dict[Frame, int] = {}
    for stack, values in profile.samples.items():
        ids = [places.setdefault(frame, len(places) + 1) for frame in stack]
        _put(out, 2, _packed(1, ids) + _packed(2, values))
    functions: dict[tuple[str, str], int] = {}
    for frame, number in places.items():
        function = functions.setdefault((frame.name, frame.file), len(functions) + 1)
        _put(out, 4, _number(1, number) + _field(4, _number(1, function) + _number(2, frame.line)))
    for (name, file), number in functions.items():
        text = texts.number(name)
        _put(out, 5, _number(1, number) + _number(2, text) + _number(3, text) + _number(4, texts.number(file)))
    if profile.note:
        out += _number(13, texts.number(profile.note))
    out += _number(9, round(profile.at * NANOSECONDS)) + _number(10, round(profile.took_s * NANOSECONDS))
    for known in texts.known:
        _put(out, 6, known.encode(errors="replace"))
    return gzip.compress(bytes(out), mtime=0)


class _Texts:
    """The string table; the first one is empty."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {"": 0}

    def number(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


def _value_type(measure: Measure, texts: _Texts) -> bytes:
    return _number(1, texts.number(measure.kind)) + _number(2, texts.number(measure.unit))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _field(field, b"".join(map(_varint, values)))


def _put(out: bytearray, field: int, content: bytes) -> None:
    out += _field(field, content)


def decode(data: bytes) -> Profile:
    """The profile again: what `encode` writes, and what others write about functions. Raises GaplessError."""
    try:
        return _decoded(gzip.decompress(data))
    except (OSError, EOFError, zlib.error, IndexError, KeyError, ValueError) as error:
        raise GaplessError(
            f"this is no profile in pprof's format: {error}", "Write one: gapless profile -o FILE."
        ) from error


def _decoded(data: bytes) -> Profile:
    parts: dict[int, list[int | bytes]] = {}
    for field, value in _fields(data):
        parts.setdefault(field, []).append(value)
    texts = [bytes(text).decode(errors="replace") for text in _contents(parts, 6)]
    functions = {}
    for content in _contents(parts, 5):
        found = _numbers(content)
        functions[found[1]] = (texts[found.get(2, 0)], texts[found.get(4, 0)])
    frames = {}
    for content in _contents(parts, 4):
        fields = list(_fields(content))
        number = next(int(value) for field, value in fields if field == 1 and isinstance(value, int))
        line = next((_numbers(value) for field, value in fields if field == 4 and isinstance(value, bytes)), {})
        name, file = functions.get(line.get(1, 0), ("?", ""))
        frames[number] = Frame(name, file, line.get(2, 0))
    measures = tuple(
        Measure(texts[found.get(1, 0)], texts[found.get(2, 0)]) for found in map(_numbers, _contents(parts, 1))
    )
    samples: dict[tuple[Frame, ...], tuple[int, ...]] = {}
    for content in _contents(parts, 2):
        places, values = _sample(content)
        samples[tuple(frames[place] for place in places)] = tuple(values)
    return Profile(
        measures,
        samples,
        at=_single(parts, 9) / NANOSECONDS,
        took_s=_single(parts, 10) / NANOSECONDS,
        note=texts[_single(parts, 13)],
    )


def _contents(parts: dict[int, list[int | bytes]], field: int) -> list[bytes]:
    return [value for value in parts.get(field, []) if isinstance(value, bytes)]


def _single(parts: dict[int, list[int | bytes]], field: int) -> int:
    return next((value for value in parts.get(field, []) if isinstance(value, int)), 0)


def _numbers(content: bytes) -> dict[int, int]:
    return {field: value for field, value in _fields(content) if isinstance(value, int)}


def _sample(content: bytes) -> tuple[list[int], list[int]]:
    lists: dict[int, list[int]] = {1: [], 2: []}
    for field, value in _fields(content):
        if field in lists:
            lists[field] += [value] if isinstance(value, int) else _unpacked(value)
    return lists[1], lists[2]


def _unpacked(content: bytes) -> list[int]:
    values, at = [], 0
    while at < len(content):
        value, at = _read(content, at)
        values.append(value)
    return values


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        value, at = _read(data, at)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES:
            if at + value > len(data):
                raise ValueError("it is cut short")
            yield key >> 3, data[at : at + value]
            at += value
        else:
            raise ValueError(f"field {key >> 3} has wire type {key & 7}")
