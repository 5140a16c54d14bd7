"""The arithmetic of the vocabulary: who meets which release."""

from __future__ import annotations

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.model import BUCKETS, Address, Rollout, RolloutPolicy, RolloutState, Split, bucket_of

WEIGHTS = st.integers(0, BUCKETS)
BUCKET = st.integers(0, BUCKETS - 1)


def split(*weights: tuple[str, int]) -> Split:
    return Split(service="s", stable="old", weights=weights)


@settings(deadline=None)
@given(weight=WEIGHTS, more=WEIGHTS, bucket=BUCKET)
def test_raising_the_newcomer_only_adds_users(weight: int, more: int, bucket: int) -> None:
    low, high = sorted((weight, more))
    before = split(("new", low), ("old", BUCKETS - low)).release_of(bucket)
    after = split(("new", high), ("old", BUCKETS - high)).release_of(bucket)
    assert not (before == "new" and after == "old")


@settings(deadline=None)
@given(weight=WEIGHTS)
def test_a_weight_is_its_number_of_buckets(weight: int) -> None:
    told = [split(("new", weight), ("old", BUCKETS - weight)).release_of(bucket) for bucket in range(0, BUCKETS, 100)]
    assert told.count("new") == -(-weight // 100)


@settings(deadline=None)
@given(first=st.integers(0, 4000), second=st.integers(0, 4000), bucket=BUCKET)
def test_the_stable_release_answers_what_nobody_else_does(first: int, second: int, bucket: int) -> None:
    told = split(("a", first), ("b", second)).release_of(bucket)
    assert told == ("a" if bucket < first else "b" if bucket < first + second else "old")


@settings(deadline=None)
@given(user=st.text(), salt=st.text())
def test_a_bucket_is_in_range_and_stable(user: str, salt: str) -> None:
    assert 0 <= bucket_of(user, salt) < BUCKETS
    assert bucket_of(user, salt) == bucket_of(user, salt)


def test_buckets_are_those_of_xxhash64() -> None:
    """The reference vector of XXH64 (seed 0) pins the function: Envoy must put the same user into the same bucket."""
    assert xxhash.xxh64_intdigest(b"", 0) == 0xEF46DB3751D8E999
    assert bucket_of("alice", "orders-1") == xxhash.xxh64_intdigest(b"orders-1:alice", 0) % 10_000


def test_users_are_spread_and_another_salt_hits_others() -> None:
    users = [f"user-{number}" for number in range(5000)]
    first = {user for user in users if bucket_of(user, "1") < 500}
    second = {user for user in users if bucket_of(user, "2") < 500}
    assert 190 <= len(first) <= 310
    assert 190 <= len(second) <= 310
    assert len(first & second) <= 40


def test_ends_and_refusals() -> None:
    assert {state for state in RolloutState if state.ended} == {RolloutState.PROMOTED, RolloutState.ROLLED_BACK}
    fields = {"number": 1, "service": "s", "before": "1", "after": "2", "policy": RolloutPolicy(), "instances": 2}
    assert not Rollout(**fields).refused
    assert Rollout(**fields, winner="1").refused
    assert not Rollout(**fields, winner="1", shifted_at=5.0).refused
    assert not Rollout(**fields, winner="2").refused
    assert str(Address(host="127.0.0.1", port=80)) == "127.0.0.1:80"
