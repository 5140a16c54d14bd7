"""Tracks of one metric over some minutes, as bytes and back. Pure.

Moments are kept to the millisecond. The bytes of the numbers are put in order of their significance before they are
compressed: counters and moments change in few of them, so that a point takes one to three bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from gapless.observe.evaluate import Track

LEVEL = 3
"""Of zlib: six times as fast as the usual 6, and hardly larger."""
_HEAD = struct.Struct("<I")
N = TypeVar("N", int, float)


def encode(tracks: Sequence[Track]) -> bytes:
    """Tracks may have different moments; those of one instance have the same, which cost nothing then."""
    moments: dict[bytes, int] = {}
    labels = [[dict(track.labels), moments.setdefault(_moments(track.at), len(moments))] for track in tracks]
    values = array("d", (value for track in tracks for value in track.values))
    head = json.dumps({"tracks": labels, "moments": [len(one) // 8 for one in moments]}).encode()
    body = _shuffled(b"".join(moments)) + _shuffled(values.tobytes())
    return zlib.compress(_HEAD.pack(len(head)) + head + body, LEVEL)


def decode(data: bytes) -> list[Track]:
    """Raises ValueError for what is no block."""
    try:
        return list(_tracks(zlib.decompress(data)))
    except (zlib.error, struct.error, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a block of metrics: {error}") from error


def _moments(at: Sequence[float]) -> bytes:
    return array("q", (round(moment * 1000) for moment in at)).tobytes()


def _tracks(data: bytes) -> Iterator[Track]:
    (size,) = _HEAD.unpack_from(data)
    head = json.loads(data[_HEAD.size : _HEAD.size + size])
    begin = _HEAD.size + size
    end = begin + 8 * sum(head["moments"])
    moments = list(_split(array("q", _ordered(data[begin:end])), head["moments"]))
    times = [array("d", (moment / 1000 for moment in one)) for one in moments]
    lengths = [len(times[number]) for _, number in head["tracks"]]
    columns = _split(array("d", _ordered(data[end:])), lengths)
    for (labels, number), values in zip(head["tracks"], columns, strict=True):
        yield Track(labels, times[number], values)


def _split(numbers: array[N], lengths: Iterable[int]) -> Iterator[array[N]]:
    begin = 0
    for length in lengths:
        yield numbers[begin : begin + length]
        begin += length


def _shuffled(data: bytes) -> bytes:
    return b"".join(data[place::8] for place in range(8))


def _ordered(data: bytes) -> bytes:
    count = len(data) // 8
    whole = bytearray(len(data))
    for place in range(8):
        whole[place::8] = data[place * count : (place + 1) * count]
    return bytes(whole)


def joined(blocks: Iterable[Sequence[Track]]) -> list[Track]:
    """The tracks of several blocks in order of time, each once."""
    found: dict[tuple[tuple[str, str], ...], Track] = {}
    for tracks in blocks:
        for track in tracks:
            key = tuple(sorted(track.labels.items()))
            known = found.get(key)
            found[key] = track if known is None else _after(known, track)
    return list(found.values())


def _after(one: Track, other: Track) -> Track:
    """What the other has that is later than all of the one."""
    begin = next((n for n, at in enumerate(other.at) if at > one.at[-1]), len(other.at)) if one.at else 0
    return Track(one.labels, [*one.at, *other.at[begin:]], [*one.values, *other.values[begin:]])


def thinned(track: Track, every_s: float) -> Track:
    """The last point of each `every_s`, which loses nothing of a counter."""
    kept = [
        n
        for n in range(len(track.at))
        if n + 1 == len(track.at) or track.at[n] // every_s != track.at[n + 1] // every_s
    ]
    return Track(track.labels, [track.at[n] for n in kept], [track.values[n] for n in kept])


def between(track: Track, since_at: float, until_at: float) -> Track:
    """Its points in [since_at, until_at)."""
    kept = [n for n, at in enumerate(track.at) if since_at <= at < until_at]
    return Track(track.labels, [track.at[n] for n in kept], [track.values[n] for n in kept])


def labelled(own: Mapping[str, str], target: Mapping[str, str]) -> dict[str, str]:
    """A metric's own labels with those of who was asked, which say who it is and therefore win; empty ones are none."""
    return {name: value for name, value in {**own, **target}.items() if value}
