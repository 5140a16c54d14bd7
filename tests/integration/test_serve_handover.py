"""Plain HTTP/1.1 connections of a real server outlive its processes: no client has to connect again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.serve_kit import (
    Server,
    Steady,
    alive,
    descriptors,
    request,
    response,
    served,
    session,
    until,
)

pytestmark = pytest.mark.promise

HANDED_OVER = "gapless_server_connections_handed_over_total"
RELOADS = 20
CONNECTIONS = 32


def pid_of(body: bytes) -> int:
    """Who answered."""
    return int(body.split()[1])


def asked(sock: socket.socket, path: str = "/") -> int:
    """Who answers on this connection, which stays open."""
    status, headers, body = request(sock, path)
    assert (status, headers.get("connection")) == (200, None)
    return pid_of(body)


def gone(*pids: int) -> None:
    until(lambda: not any(map(alive, pids)), "the old ones have ended")


def resident(pid: int) -> int:
    """Bytes in memory that are the process's own."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def quiet(server: Server) -> None:
    """The last reload is over, and what it replaced has ended."""
    until(lambda: len(server.status()["workers"]) == len(server.workers()) > 0, "the old ones have gone")


def test_an_idle_connection_goes_over_to_the_new_generation(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as kept, server.connect() as silent:
        old = asked(kept)
        server.reload()
        gone(old)
        assert asked(kept) == asked(silent) == server.workers()[0] != old
        server.counts(HANDED_OVER, 2)


def test_a_busy_connection_goes_over_after_its_response(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as kept:
        old = asked(kept)
        kept.sendall(b"GET /sleep/1 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.reload()
        status, headers, body = response(kept)
        assert (status, pid_of(body), headers.get("connection")) == (200, old, None)
        assert asked(kept) == server.workers()[0] != old
        gone(old)


def test_requests_sent_in_one_go_are_answered_in_order_before_the_connection_goes_over(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as kept:
        old = asked(kept)
        kept.sendall(b"GET /sleep/0.5 HTTP/1.1\r\nhost: x\r\n\r\nGET /later HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.reload()
        data = b""
        while data.count(b"HTTP/1.1 200") < 4 or not data.endswith(b"%d" % old):
            received = kept.recv(65_536)
            assert received, data
            data += received
        assert b"connection: close" not in data
        assert asked(kept) != old


def test_half_a_request_is_answered_by_the_one_that_read_the_first_half(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as kept:
        old = asked(kept)
        kept.sendall(b"GET / HTTP/1.1\r\nho")
        time.sleep(0.2)
        server.reload()
        kept.sendall(b"st: x\r\n\r\n")
        assert pid_of(response(kept)[2]) == old
        assert asked(kept) != old


def test_a_response_that_the_client_has_not_read_yet_is_sent_whole(short_dir: Path) -> None:
    size = 8_000_000
    with served(short_dir) as server, server.connect() as kept:
        old = asked(kept)
        kept.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        kept.sendall(bytes(size))
        server.reload()
        time.sleep(0.3)
        assert alive(old)
        assert len(response(kept)[2]) == size
        assert asked(kept) == server.workers()[0] != old
        gone(old)


def test_a_unix_socket_goes_over_too(short_dir: Path) -> None:
    path = short_dir / "app.sock"
    with served(short_dir, "--bind", f"unix:{path}") as server, socket.socket(socket.AF_UNIX) as kept:
        kept.connect(str(path))
        old = asked(kept)
        server.reload()
        gone(old)
        assert asked(kept) == server.workers()[0]


def test_connections_spread_over_the_workers_that_take_them(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server, ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(80)]
        for sock in socks:
            asked(sock)
        old = server.workers()
        server.reload()
        gone(*old)
        takers = Counter(asked(sock) for sock in socks)
        assert sorted(takers) == sorted(server.workers())
        assert min(takers.values()) >= len(socks) / 5


async def test_of_two_workers_the_other_takes_what_one_that_is_sent_sigterm_had(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        async with Steady(server.port, "/sleep/0.02", connections=CONNECTIONS) as load:
            for _ in range(3):
                victim = server.workers()[0]
                os.kill(victim, signal.SIGTERM)
                await asyncio.to_thread(gone, victim)
                await asyncio.to_thread(until, lambda: len(server.workers()) == 2, "it is replaced")
        assert load.lost() == []
        assert sum(not record.reused for record in load.records) == CONNECTIONS
        assert server.status()["restarts"] == 0


async def test_twenty_reloads_under_load_close_no_connection_lose_nothing_and_leave_nothing(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        await asyncio.to_thread(server.reload)  # the first one imports what the admin socket needs
        await asyncio.to_thread(quiet, server)
        both = (server.pid, server.master)
        before, counted = [descriptors(pid) for pid in both], 0.0
        async with Steady(server.port, "/sleep/0.01", rate=300, connections=CONNECTIONS) as load:
            for _ in range(RELOADS):
                status, told = await asyncio.to_thread(server.reload)
                assert status == 200, told
                now = await asyncio.to_thread(server.metric, "gapless_requests_total")
                assert now >= counted > -1
                counted = now
        assert load.lost() == []
        assert load.summary.requests > 300
        assert sum(not record.reused for record in load.records) == CONNECTIONS
        assert load.summary.reconnects == 0
        assert server.metric(HANDED_OVER) >= CONNECTIONS * (RELOADS - 1)
        await asyncio.to_thread(quiet, server)
        server.counts("gapless_requests_total", load.summary.answered)
        server.counts("gapless_server_reloads_total", RELOADS + 1)
        until(lambda: [descriptors(pid) for pid in both] == before, "keeper and master have the descriptors they had")
        assert server.others() == sorted(server.workers())


def test_fifty_chained_reloads_leave_the_server_as_it_was(short_dir: Path) -> None:
    with served(short_dir) as server, ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(20)]
        for _ in range(5):  # what is imported and allocated once
            assert server.reload()[0] == 200
            asked(socks[0])  # there are no series of requests before the first one
        quiet(server)
        both = (server.pid, server.master)
        scraped = len(server.ask("/metrics")[2])
        before, held = [descriptors(pid) for pid in both], [resident(pid) for pid in both]
        worker_before = len(descriptors(server.workers()[0]))
        for _ in range(50):
            assert server.reload()[0] == 200
            asked(socks[0])
        quiet(server)
        assert {asked(sock) for sock in socks} == set(server.workers())
        until(lambda: [descriptors(pid) for pid in both] == before, "keeper and master have the descriptors they had")
        assert len(descriptors(server.workers()[0])) == worker_before
        keeper, master = (resident(pid) for pid in both)
        assert keeper < held[0] * 1.02 + 200_000  # of 5 MB: less than that is a page here and there
        assert master < held[1] * 1.02
        assert len(server.ask("/metrics")[2]) < scraped * 1.1  # so scraping stays as fast as it was
        assert session(server.pid, zombies=True) == session(server.pid)


def test_when_nobody_takes_over_a_kept_connection_is_told_to_close(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as kept, server.connect() as busy:
        asked(kept)
        busy.sendall(b"GET /sleep/2 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.reload()
        server.signal(signal.SIGTERM)
        until(lambda: server.status()["draining"], "it drains")
        status, headers, _ = request(kept, "/")
        assert (status, headers["connection"]) == (200, "close")
        assert response(busy)[0] == 200
        assert server.wait() == 0


def test_what_is_under_way_between_two_workers_waits_for_the_next_one(short_dir: Path) -> None:
    """The only worker leaves before there is another one: the connection waits where a new one would."""
    with served(short_dir) as server, server.connect() as kept:
        old = asked(kept)
        os.kill(old, signal.SIGTERM)
        gone(old)
        assert asked(kept) != old
        assert server.status()["restarts"] == 0


def test_many_idle_connections_go_over_quickly(short_dir: Path) -> None:
    many = 2000
    with served(short_dir, "--workers", "2") as server, ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(many)]
        until(lambda: sum(w["connections"] for w in server.status()["workers"]) == many, "all are accepted")
        old = server.workers()
        server.reload()
        began = time.monotonic()
        gone(*old)
        # 10,000 within a second are promised on a quiet machine (benchmarks/reload.py shows it); here others run too.
        assert time.monotonic() - began < 5.0
        assert server.metric(HANDED_OVER) >= many  # more when an old one took some before it heard that it leaves too
        assert {asked(sock) for sock in socks} == set(server.workers())
