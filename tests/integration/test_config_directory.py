"""Settings from a Git directory, by the real git: what a commit has, all files or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gapless.config.directory import FileSettings, read_directory
from gapless.core.errors import ConfigError


def git(directory: Path, *words: str) -> str:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", str(directory), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "orders.yaml").write_text("price:\n  max: 5\nhosts: [a, b]\n")
    (settings / "stock.toml").write_text("size = 3\n")
    (settings / "README.md").write_text("what this is")
    (settings / "gapless.yaml").write_text("system: shop")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    return settings


async def refused(directory: Path, dirty: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        await read_directory(directory, dirty)
    assert caught.value.remedy
    return caught.value.what


async def test_files_of_a_commit_are_services_and_the_commit_is_the_label(repository: Path) -> None:
    found = await read_directory(repository, dirty=False)
    assert found.label == git(repository, "rev-parse", "--short=12", "HEAD")
    orders = found.services["orders"]
    assert orders.values == {"price": {"max": "5"}, "hosts": ["a", "b"]}
    assert orders.places["price.max"] == "orders.yaml:2"
    assert found.services["stock"] == FileSettings({"size": 3}, {"size": "stock.toml:1"})
    assert list(found.services) == ["orders", "stock"]


async def test_what_is_not_committed_is_refused_unless_asked_for(repository: Path) -> None:
    commit = (await read_directory(repository, dirty=False)).label
    (repository.parent / "elsewhere").write_text("is nobody's business")
    assert (await read_directory(repository, dirty=False)).label == commit
    (repository / "stock.toml").write_text("size = 4\n")
    assert "stock.toml" in await refused(repository)
    found = await read_directory(repository, dirty=True)
    assert (found.label, found.services["stock"].values) == (f"{commit}+changes", {"size": 4})
    git(repository, "checkout", "-q", "stock.toml")
    (repository / "new.yaml").write_text("a: b")
    assert "new.yaml" in await refused(repository)


async def test_every_wrong_file_is_told_and_a_directory_without_a_commit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text("price: 5\nprice: 6\n")
    (tmp_path / "orders.toml").write_text("price = 5\n")
    (tmp_path / "stock.json").write_text("{")
    assert "has no commit" in await refused(tmp_path)
    told = (await refused(tmp_path, dirty=True)).splitlines()
    assert [line.partition(" ")[0] for line in told] == ["orders.yaml:2:", "orders.yaml:", "stock.json:1:"]
    assert "no directory" in await refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no settings" in await refused(tmp_path / "empty", dirty=True)
