"""The shop's services as processes: a killed instance's payments are asked again and paid once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gapless.service.client import Client

SHOP = Path(__file__).parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))

from shop import book, schema  # noqa: E402
from shop.catalogue import PRICES  # noqa: E402
from shop.database import opened  # noqa: E402
from shop.purchase import finish  # noqa: E402
from showcase import ledger  # noqa: E402
from tests.ports import free_port  # noqa: E402

PURCHASES = 60


class Fleet:
    """Instances under uvicorn, which needs no control plane."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, service: str) -> str:
        port = free_port("127.0.0.1")
        command = ["-m", "uvicorn", f"shop.{service}:app", "--port", str(port), "--log-level", "warning"]
        env = {**os.environ, "SHOP_DATA": str(self.data)}
        self.running.append(subprocess.Popen([sys.executable, *command], cwd=SHOP, env=env))
        return f"127.0.0.1:{port}"

    def stop(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(timeout=20)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.stop()


async def answers(client: Client, path: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if (await client.get(path, deadline_s=1.0)).status == 200:
                return
        except Exception:  # noqa: BLE001 - not up yet
            await asyncio.sleep(0.1)
    raise AssertionError(f"{client.service} does not answer")


async def test_what_a_killed_payment_instance_held_is_paid_once(fleet: Fleet) -> None:
    inventory = Client("inventory", endpoints=[fleet.start("inventory")])
    payments = [fleet.start("payment"), fleet.start("payment")]
    payment = Client("payment", endpoints=payments)
    victim = fleet.running[-1]
    async with inventory, payment, opened(fleet.data / "orders.db", (*book.SCHEMA, *schema.MARKS)) as database:
        await answers(inventory, "/ledger")
        for place in payments:
            async with Client("payment", endpoints=[place]) as one:
                await answers(one, "/ledger")

        async def buy(number: int) -> book.Order:
            await asyncio.sleep(number * 0.01)
            wanted = {"key": f"k{number}", "user": "7", "item": "book", "quantity": 1, "amount": PRICES["book"]}
            order = await database.write(partial(book.begin, **wanted))  # type: ignore[arg-type]
            return await finish(order, database, inventory, payment)

        purchases = asyncio.gather(*(buy(number) for number in range(PURCHASES)))
        await asyncio.sleep(0.3)
        victim.kill()
        orders = await purchases
        assert {order.state for order in orders} == {"confirmed"}
    audit = ledger.audit(ledger.read(fleet.data), {f"k{number}" for number in range(PURCHASES)})
    assert audit.wrong == ()
    assert audit.confirmed == audit.paid == PURCHASES
