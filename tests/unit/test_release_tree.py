"""The copy of a source directory and its digest."""

import os
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ReleaseError
from gapless.fleet.tree import copy_tree, feed, inner_target, new_digest, remove_tree, seal


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source"
    (place / "pkg").mkdir(parents=True)
    (place / "app.py").write_text("app = 1\n")
    (place / "pkg" / "data.bin").write_bytes(bytes(range(256)))
    return place


def copy(source, target, without=None):
    digest = new_digest("directory")
    files = copy_tree(source, target, digest, without or source / "nowhere")
    return files, digest.hexdigest()


def digest_of(source, tmp_path):
    target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
    return copy(source, target)[1]


def names(top):
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_a_copy_is_the_same(source, tmp_path):
    files, _ = copy(source, tmp_path / "to")
    assert files == 2
    assert names(tmp_path / "to") == ["app.py", "pkg", "pkg/data.bin"]
    assert (tmp_path / "to" / "pkg" / "data.bin").read_bytes() == bytes(range(256))


def test_what_is_left_out(source, tmp_path):
    for name in (".git", "__pycache__", ".venv", ".gapless", "node_modules", "st", "myenv", "pkg/logs"):
        (source / name).mkdir()
        (source / name / "f").write_text("x")
    (source / "myenv" / "pyvenv.cfg").write_text("")
    (source / "pkg" / "x.pyc").write_text("")
    (source / ".gaplessignore").write_text("logs/\n*.tmp\n")
    (source / "a.tmp").write_text("")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(source / "s.sock"))
        copy(source, tmp_path / "to", without=source / "st")
    assert names(tmp_path / "to") == [".gaplessignore", "app.py", "pkg", "pkg/data.bin"]


def test_the_digest_knows_every_difference(source, tmp_path):
    seen = {digest_of(source, tmp_path)}

    def differs():
        digest = digest_of(source, tmp_path)
        fresh = digest not in seen
        seen.add(digest)
        return fresh

    assert not differs()
    os.utime(source / "app.py", (1, 1))
    assert not differs()
    (source / "app.py").write_text("app = 2\n")
    assert differs()
    os.chmod(source / "app.py", 0o755)
    assert differs()
    os.rename(source / "app.py", source / "bpp.py")
    assert differs()
    (source / "empty").mkdir()
    assert differs()
    os.symlink("bpp.py", source / "link")
    assert differs()
    (source / "link").unlink()
    os.symlink("pkg", source / "link")
    assert differs()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_lists_of_fields_are_confused(one, other):
    first, second = new_digest("x"), new_digest("x")
    feed(first, *one)
    feed(second, *other)
    assert (first.hexdigest() == second.hexdigest()) == (one == other)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "pkg/../../outside", "."])
def test_links(source, tmp_path, target):
    os.symlink(target, source / "link")
    if target == ".":
        copy(source, tmp_path / "to")
        assert os.readlink(tmp_path / "to" / "link") == "."
        return
    with pytest.raises(ReleaseError, match="leaves") as caught:
        copy(source, tmp_path / "to")
    assert ".gaplessignore" in caught.value.remedy


def test_links_that_stay_inside_are_kept_relative(source, tmp_path):
    os.symlink(source / "app.py", source / "pkg" / "absolute")
    os.symlink("nothing", source / "dangling")
    copy(source, tmp_path / "to")
    assert os.readlink(tmp_path / "to" / "pkg" / "absolute") == "../app.py"
    assert os.readlink(tmp_path / "to" / "dangling") == "nothing"


def test_a_link_through_a_link_that_leaves_is_refused(source, tmp_path):
    (tmp_path / "outside").mkdir()
    os.symlink("../outside", source / "way")
    os.symlink("way/x", source / "link")
    (source / ".gaplessignore").write_text("way\n")
    with pytest.raises(ReleaseError, match="link"):
        copy(source, tmp_path / "to")


def test_inner_target():
    assert inner_target("/top", "a/b", "/top/c") == "../c"
    assert inner_target("/top", "a/b", "../../x") is None
    assert inner_target("/top", "a", "/topper") is None
    assert inner_target("/top", "a", ".") == "."


def test_names_that_are_no_text(source, tmp_path):
    odd = os.fsencode(source) + b"/\xff\xfe"
    with open(odd, "w") as file:
        file.write("x")
    os.mkdir(os.fsencode(source) + b"/d\xff")
    os.symlink(b"\xff\xfe", os.fsencode(source) + b"/l\xff")
    assert copy(source, tmp_path / "to")[0] == 3


def test_a_sealed_tree_is_read_only_and_can_be_removed(source, tmp_path):
    os.chmod(source / "app.py", 0o755)
    os.symlink("app.py", source / "link")
    copy(source, tmp_path / "to")
    seal(tmp_path / "to")
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "to").rglob("*")}
    assert modes["app.py"] == 0o555
    assert modes["data.bin"] & 0o222 == 0
    assert modes["pkg"] & 0o222 == 0
    remove_tree(tmp_path / "to")
    remove_tree(tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert (source / "app.py").exists()
