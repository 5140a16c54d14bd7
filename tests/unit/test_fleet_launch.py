"""How an instance's process is started."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from gapless.core.errors import InstanceFailed
from gapless.core.model import Address, Instance, Network, Protocol, Release, Service, Upstream
from gapless.fleet.environment import build_environment, fallback_directories
from gapless.fleet.launch import argv, check_name, environment, fill

STATE = Path("/s")
INSTANCE = Instance(id="orders-1", service="orders", release="1.5", address=Address(host="127.0.0.1", port=2345))


def release(**more):
    return Release(service="orders", version="1.5", digest="d", source="/src", **more)


def test_an_app_is_served():
    service = Service(name="orders", app="shop:app", workers=3, drain_s=2.5, start_s=10)
    assert " ".join(argv(INSTANCE, release(app="shop:new"), service, STATE, "py")) == (
        "py -m gapless serve shop:new --bind 127.0.0.1:2345 --admin unix:/s/run/orders-1.sock --workers 3"
        " --drain 2.5 --start 10"
    )


@pytest.mark.parametrize(("share", "more"), [(0.0, ""), (1.0, "100.000000%"), (0.001, "0.100000%")])
def test_an_access_log_is_for_whom_it_is_asked(share: float, more: str) -> None:
    service = Service(name="orders", app="shop:app", access_log=share)
    words = argv(INSTANCE, release(app="shop:new"), service, STATE, "py")
    assert words[words.index("--start") + 2 :] == (["--access-log", "--access-sample", more] if more else [])


@pytest.mark.parametrize(
    ("network", "listens", "trusts"),
    [
        (Network(bind="10.0.0.5", advertise="10.0.0.5"), "10.0.0.5:2345", ["127.0.0.0/8", "::1", "10.0.0.5"]),
        (
            Network(bind="0.0.0.0", advertise="10.0.0.5", trust=("10.0.0.7/32",)),
            "0.0.0.0:2345",
            ["127.0.0.0/8", "::1", "10.0.0.5", "10.0.0.7/32"],
        ),
        (Network(bind="::", advertise="fd00::5"), "[::]:2345", ["127.0.0.0/8", "::1", "fd00::5"]),
    ],
)
def test_an_instance_listens_on_the_address_of_the_system(network, listens, trusts):
    found = replace(INSTANCE, address=Address(host=network.advertise, port=2345))
    words = argv(found, release(app="a:b"), Service(name="orders"), STATE, "py", network)
    assert words[words.index("--bind") + 1] == listens
    assert [after for word, after in pairwise(words) if word == "--trust"] == trusts
    filled = argv(found, release(command=("x", "{host}")), Service(name="orders"), STATE, "py", network)
    assert filled == ["x", network.bind]


def test_one_that_was_recorded_under_other_settings_keeps_its_address():
    network = Network(bind="0.0.0.0", advertise="10.0.0.5")
    assert "127.0.0.1:2345" in argv(INSTANCE, release(app="a:b"), Service(name="orders"), STATE, "py", network)


def test_so_is_one_of_grpc():
    service = Service(name="orders", app="shop:add", upstream=Upstream(protocol=Protocol.GRPC))
    assert argv(INSTANCE, release(), service, STATE, "py")[:6] == ["py", "-m", "gapless", "serve", "shop:add", "--grpc"]


def test_a_command_is_filled_in():
    command = ("./x", "--at={host}:{port}", "{state}/db", "{other}", "{}")
    expected = ["./x", "--at=127.0.0.1:2345", "/s/db", "{other}", "{}"]
    assert argv(INSTANCE, release(), Service(name="orders", command=command), STATE, "py") == expected
    both = Service(name="orders", app="shop:app")
    assert argv(INSTANCE, release(command=command), both, STATE, "py") == expected


def test_nothing_to_run():
    with pytest.raises(InstanceFailed, match="neither"):
        argv(INSTANCE, release(), Service(name="orders"), STATE, "py")


def test_a_long_state_directory_is_named():
    with pytest.raises(InstanceFailed, match="too long") as caught:
        argv(INSTANCE, release(app="a:b"), Service(name="orders"), Path("/" + "x" * 90), "py")
    assert "--state" in caught.value.remedy
    argv(INSTANCE, release(command=("x",)), Service(name="orders"), Path("/" + "x" * 90), "py")


@pytest.mark.parametrize("name", ["", "a/b", ".", "../x", "a\0b"])
def test_ids_that_are_no_file_names(name):
    with pytest.raises(InstanceFailed):
        check_name(name)


def test_what_an_instance_inherits():
    inherited = {
        "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "TZ": "UTC", "PYTHONPATH": "/p", "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": "/v", "SECRET": "x", "GAPLESS_INSTANCE": "outer", "GAPLESS_STATE": "/outer",
    }  # fmt: skip
    service = Service(name="orders", env={"A": "service", "B": "service", "GAPLESS_STATE": "/forged"})
    made = environment(inherited, INSTANCE, release(env={"B": "{state}/b"}), service, STATE, Path("/env/bin"))
    assert made == {
        "PATH": "/env/bin:/bin", "HOME": "/h", "LC_ALL": "C", "TZ": "UTC", "A": "service", "B": "/s/b",
        "PYTHONUNBUFFERED": "1", "GAPLESS_SERVICE": "orders", "GAPLESS_RELEASE": "1.5", "GAPLESS_INSTANCE": "orders-1",
        "GAPLESS_STATE": "/s", "GAPLESS_DISCOVERY": "/s/control.sock",
    }  # fmt: skip


def test_path_is_left_alone_without_an_environment():
    assert environment({"PATH": "/bin"}, INSTANCE, release(), Service(name="o"), STATE, None)["PATH"] == "/bin"
    assert environment({}, INSTANCE, release(), Service(name="o"), STATE, Path("/e"))["PATH"] == "/e"


def test_fill_leaves_other_braces():
    assert fill("{a}{b}{{c}}", {"a": "1"}) == "1{b}{{c}}"


def test_pip_inherits_all_but_what_bends_python():
    assert build_environment({"PIP_INDEX_URL": "i", "PYTHONHOME": "h", "VIRTUAL_ENV": "v"}) == {"PIP_INDEX_URL": "i"}


def test_fallback_directories():
    path = ["", "/lib/python3.11", "/v/lib/python3.11/site-packages", "/usr/lib/python3/dist-packages"]
    assert fallback_directories(path, Path("/repo/src")) == (
        "/v/lib/python3.11/site-packages",
        "/usr/lib/python3/dist-packages",
        "/repo/src",
    )
    assert fallback_directories(path[2:3], Path(path[2])) == (path[2],)
