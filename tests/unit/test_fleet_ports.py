"""Ports for instances."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import InstanceFailed
from gapless.core.model.network import LOOPBACK
from gapless.fleet.ports import FEWEST, LOWEST, Ports, pick, read_outgoing
from gapless.testing.world import FakeWorld


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 65_535))
def test_a_port_is_never_one_of_the_outgoing(dice, below):
    port = pick(dice, below)
    assert LOWEST <= port < below if below - LOWEST >= FEWEST else port == 0


def test_the_outgoing_range(tmp_path):
    (tmp_path / "range").write_text("32768\t60999\n")
    (tmp_path / "odd").write_text("?")
    assert read_outgoing(tmp_path / "range") == 32768
    assert read_outgoing(tmp_path / "odd") == 0
    assert read_outgoing(tmp_path / "absent") == 0


async def test_a_taken_port_is_not_given():
    port = await Ports(FakeWorld(seed=7)).allocate()
    server = await asyncio.start_server(lambda *_: None, LOOPBACK, port)
    async with server:
        assert await Ports(FakeWorld(seed=7)).allocate() != port


async def test_no_free_port(monkeypatch):
    async def never(host, port):
        return False

    monkeypatch.setattr("gapless.fleet.ports._is_free", never)
    with pytest.raises(InstanceFailed):
        await Ports(FakeWorld()).allocate()
