"""The `contract` gate: asks a new instance for its OpenAPI document and for what that promises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gapless.control.gates.scene import Scene
from gapless.core.errors import GaplessError
from gapless.core.model import Address, Gate
from gapless.rollout.contract.answers import probes, problems
from gapless.rollout.contract.breaking import breaking, permitted
from gapless.rollout.contract.spec import Operation, Spec
from gapless.rollout.reports.outcome import GateOutcome, counted, passes, refuses

if TYPE_CHECKING:
    import httpcore

ANSWER_S = 10.0
BODY_LIMIT = 8 << 20
PROBED_AT_ONCE = 4
MARKER = (b"x-gapless-mirror", b"1")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


async def check_contract(gate: Gate, scene: Scene) -> GateOutcome:
    """Answers first, then what callers of the stable release would miss."""
    import httpcore

    assert gate.contract
    rule = gate.contract
    async with httpcore.AsyncConnectionPool(max_connections=PROBED_AT_ONCE) as pool:
        new = await _document(pool, rule.spec, scene.address, scene)
        old = await _before(pool, rule.before or rule.spec, scene, known=bool(rule.before))
        wrong, asked, left = await _ask_all(pool, new, scene.address)
    missed = permitted(await asyncio.to_thread(breaking, old, new), rule.allow) if old else []
    return _told(wrong, missed, asked, left, compared=old is not None)


def _told(wrong: list[str], missed: list[str], asked: int, left: Sequence[str], *, compared: bool) -> GateOutcome:
    numbers = {
        "asked": float(asked),
        "wrong": float(len(wrong)),
        "breaking": float(len(missed)),
        "left": float(len(left)),
    }
    output = "\n".join([*wrong, *missed, *(f"not asked, no example: {name}" for name in left)])
    told = [*([f"{counted(len(wrong), 'answer')} not as promised"] if wrong else [])]
    told += [counted(len(missed), "breaking change")] if missed else []
    if told:
        return refuses(f"{' and '.join(told)}: {(wrong + missed)[0]}", output, numbers)
    told = [f"{counted(asked, 'answer')} as promised"]
    told += ["nothing that callers would miss"] if compared else ["no document of the stable release to compare with"]
    return passes(", ".join(told), output, numbers)


async def _document(pool: httpcore.AsyncConnectionPool, where: str, address: Address | None, scene: Scene) -> Spec:
    """Raises GaplessError."""
    if not where.startswith("/"):
        path = scene.base / where
        if not path.is_file():
            raise GaplessError(
                f"there is no {path}", "`spec` and `before` are files beside gapless.yaml, or paths to ask."
            )
        return _parsed(path.read_text(errors="replace"), str(path))
    if address is None:
        raise GaplessError(f"there is no instance to ask for {where}", "Name one by --url, or a file as `spec`.")
    answer = await _ask(pool, address, where)
    if answer.status != 200:
        raise GaplessError(f"{address}{where} answers {answer.status}", "Say by `spec` where the document is.")
    return _parsed(answer.body.decode(errors="replace"), f"{address}{where}")


async def _before(pool: httpcore.AsyncConnectionPool, where: str, scene: Scene, *, known: bool) -> Spec | None:
    """None when the stable release has none: only one that is named must be there."""
    if not known and (not where.startswith("/") or scene.stable is None):
        return None
    try:
        return await _document(pool, where, scene.stable, scene)
    except GaplessError:
        if known:
            raise
        return None


def _parsed(text: str, where: str) -> Spec:
    try:
        return Spec.parse(text)
    except ValueError as error:
        raise GaplessError(f"{where}: {error}", "Say by `spec` where the document is.") from None


async def _ask_all(
    pool: httpcore.AsyncConnectionPool, spec: Spec, address: Address | None
) -> tuple[list[str], int, list[str]]:
    """What was wrong, how many were asked, and which could not be."""
    asked, left = probes(spec)
    if address is None:
        return [], 0, [*left, *(operation.name for operation, _ in asked)]
    found = await asyncio.gather(*(_probe(pool, operation, target, address) for operation, target in asked))
    return [told for each in found for told in each], len(asked), left


async def _probe(pool: httpcore.AsyncConnectionPool, operation: Operation, target: str, address: Address) -> list[str]:
    try:
        answer = await _ask(pool, address, target)
    except GaplessError as error:
        return [f"{operation.name}: {error.what}"]
    return await asyncio.to_thread(problems, operation, answer.status, answer.content_type, answer.body)


async def _ask(pool: httpcore.AsyncConnectionPool, address: Address, target: str) -> Answer:
    """Raises GaplessError when no whole answer comes."""
    import httpcore

    limits = dict.fromkeys(("connect", "read", "write"), ANSWER_S) | {"pool": None}
    url = httpcore.URL(scheme=b"http", host=address.host, port=address.port, target=target)
    try:
        async with pool.stream(
            "GET", url, headers=[(b"host", str(address).encode()), MARKER], extensions={"timeout": limits}
        ) as r:
            body = b""
            async for part in r.aiter_stream():
                body += part
                if len(body) > BODY_LIMIT:
                    raise GaplessError(f"{target} answers more than {BODY_LIMIT >> 20} MB")
            kind = next((v.decode("latin-1") for k, v in r.headers if k.lower() == b"content-type"), "")
            return Answer(r.status, kind, body)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise GaplessError(f"{address}{target} gives no whole answer ({type(error).__name__})") from error
