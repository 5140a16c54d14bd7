"""What a process's command line and the kernel's table of connections say."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gapless.gateway.envoy.bootstrap import arguments
from gapless.gateway.envoy.epochs import LARGEST_BASE_ID, epoch_of, established
from gapless.gateway.envoy.protos import varint

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@given(st.integers(0, LARGEST_BASE_ID), st.integers(0, 1000))
def test_an_epoch_is_read_from_the_command_line_that_started_it(base_id: int, number: int) -> None:
    found = epoch_of(7, arguments(Path("/opt/envoy"), 2, base_id, number), "print")
    assert (found.base_id, found.number) == (base_id, number if base_id else 0)
    assert (found.pid, found.binary, found.print) == (7, "/opt/envoy", "print")


def test_only_established_connections_to_our_ports_that_the_process_holds_count() -> None:
    rows = [
        ("1F90", "01", "11"),
        ("1F90", "0A", "11"),
        ("1F91", "01", "11"),
        ("1F90", "01", "12"),
        ("1F90", "01", "11"),
    ]
    lines = [
        f"   0: 0100007F:{port} 0100007F:C350 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"
        for port, state, inode in rows
    ]
    table = HEAD + "\n".join(lines)
    assert established(table, frozenset({8080}), lambda inode: inode == "11") == 2
    assert established("", frozenset({8080}), lambda inode: True) == 0


@given(st.integers(0, 2**63))
def test_a_varint_reads_back(value: int) -> None:
    data = varint(value)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data)) == value
    assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
