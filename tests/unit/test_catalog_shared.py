"""Parts of rows that are alike are one object; what differs stays as it is."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gapless.discovery.catalog.shared import MOST, Shared
from gapless.discovery.catalog.values import Check, Definition, Instance, encoded

TAGS = st.lists(st.sampled_from("ab"), max_size=2).map(tuple)
META = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"))
DEFINITIONS = st.builds(
    Definition, ttl=st.sampled_from(["", "10s"]), header=st.dictionaries(st.just("h"), st.just(["v"]))
)
INSTANCES = st.builds(Instance, service=st.just("web"), tags=TAGS, meta=META)
CHECKS = st.builds(Check, node=st.just("n"), id=st.just("c"), service_tags=TAGS, definition=DEFINITIONS)


@given(st.lists(INSTANCES, min_size=2), st.lists(CHECKS, min_size=2))
def test_nothing_changes_but_what_is_equal_is_the_same(instances: list[Instance], checks: list[Check]) -> None:
    shared = Shared()
    copies = [msgspec.json.decode(encoded(instance), type=Instance) for instance in instances]
    for copy in copies:
        shared.instance(copy)
    assert copies == instances
    assert len({id(copy.meta) for copy in copies}) == len({tuple(sorted(copy.meta.items())) for copy in copies})
    assert len({id(copy.tags) for copy in copies}) == len({copy.tags for copy in copies})
    checked = [msgspec.json.decode(encoded(check), type=Check) for check in checks]
    for check in checked:
        shared.check(check)
    assert checked == checks
    assert len({id(check.definition) for check in checked}) == len({encoded_part(check) for check in checked})


def encoded_part(check: Check) -> bytes:
    return msgspec.json.encode(check.definition)


def test_no_more_is_remembered_than_is_allowed() -> None:
    shared = Shared()
    for number in range(2 * MOST):
        shared.instance(Instance(service="web", tags=(str(number),), meta={"number": str(number)}))
    assert len(shared._parts) <= MOST
