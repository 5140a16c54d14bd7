"""Tables that remember give what tables from nothing give."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gapless.control.table import Tables
from gapless.core.model import Address, Fault, Instance, Phase, Service, Split

SERVICES = [Service(name=name) for name in "ab"]
SPLITS = [Split(service=name, stable="1", weights=(("1", 10_000),)) for name in "ab"]

instances = st.lists(
    st.builds(
        Instance,
        id=st.sampled_from("ijkl"),
        service=st.sampled_from("ab"),
        release=st.sampled_from("12"),
        address=st.builds(Address, host=st.just("h"), port=st.integers(1, 3)),
        phase=st.sampled_from(Phase),
    ),
    max_size=4,
    unique_by=lambda i: i.id,
)


shares = st.sampled_from([SPLITS, SPLITS[:1], [SPLITS[0], replace(SPLITS[1], stable="2")], SPLITS[::-1]])
faults = st.sampled_from([(), (Fault(service="b", until_at=9.0, delay_s=1.0),)])


@given(st.lists(st.tuples(instances, shares, faults), min_size=1, max_size=5), st.data())
def test_each_table_is_as_if_it_were_the_first(
    found: list[tuple[list[Instance], list[Split], tuple[Fault, ...]]], data: st.DataObject
) -> None:
    """Also when some instances stay the very same."""
    tables, known = Tables(), dict[Instance, Instance]()
    for version, (drawn, splits, hit) in enumerate(found):
        now = [known.setdefault(each, each) if data.draw(st.booleans()) else each for each in drawn]
        first = Tables().table(SERVICES, splits, now, version, hit)
        assert tables.table(SERVICES, splits, now, version, hit) == first


def test_a_service_that_stays_is_the_very_same() -> None:
    tables = Tables()
    one = Instance(id="i", service="a", release="1", address=Address(host="h", port=1), phase=Phase.READY)
    first = tables.table(SERVICES, SPLITS, [one], 1)
    second = tables.table(SERVICES, SPLITS, [one, replace(one, id="j", service="b")], 2)
    assert second.services[0] is first.services[0]
    assert second.services[1] is not first.services[1]
    looked_at = replace(one, failures=1)
    assert tables.table(SERVICES, SPLITS, [looked_at], 3).services[0] is first.services[0]
