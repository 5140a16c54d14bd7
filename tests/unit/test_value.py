"""A Value is a frozen dataclass in all but its price."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest

from gapless.core.value import Value, fields_of


class Point(Value, kw_only=False):
    kind: ClassVar[str] = "point"
    x: int
    y: int = 0


class Named(Value):
    name: str = ""


class Place(Named):
    at: Point
    height: float = 0.0


def test_fields_are_given_by_name_and_by_place_where_that_is_said() -> None:
    assert Point(1, 2) == Point(1, y=2) == Point(x=1, y=2)
    assert (Point(1).x, Point(1).y, Point(1).kind) == (1, 0, "point")
    place = Place(at=Point(3), name="home")
    assert (place.name, place.at, place.height) == ("home", Point(3), 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Point(),
        lambda: Point(1, 2, 3),
        lambda: Point(1, x=2),
        lambda: Point(1, z=2),
        lambda: Point(z=2),
        lambda: Point(1, kind="other"),
        lambda: Named("by place"),
        lambda: Place(name="nowhere"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_fields(wrong) -> None:
    with pytest.raises(TypeError, match=r"(Point|Named|Place)\(.*(x|name)"):
        wrong()


def test_nothing_can_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\(x=1, y=0\) is frozen: 'x' cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del point.x
    assert point == Point(1)


def test_equal_is_what_has_the_same_class_and_fields() -> None:
    class Other(Value, kw_only=False):
        x: int
        y: int = 0

    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert len({Point(1), Point(1, 0), Point(2), Other(1)}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(Named(name=[]))  # type: ignore[arg-type]


def test_it_can_be_read_copied_replaced_and_sent() -> None:
    place = Place(at=Point(1, 2), name="home")
    assert repr(place) == "Place(name='home', at=Point(x=1, y=2), height=0.0)"
    assert copy.deepcopy(place) == copy.copy(place) == pickle.loads(pickle.dumps(place)) == place
    assert place.__replace__(height=2.0) == Place(at=Point(1, 2), name="home", height=2.0)
    assert tuple(fields_of(place)) == ("name", "at", "height")
    assert not fields_of("text")
