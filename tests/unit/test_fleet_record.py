"""What is kept of an instance in a file."""

from gapless.fleet.record import Record, Records


def test_records(tmp_path):
    records = Records(tmp_path)
    one = Record(id="a-1.5", pid=1, began=2, app=True)
    records.write(one)
    records.write(one)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "a.sock").write_text("")
    assert records.read() == [one]
    assert records.find("a-1.5") == one
    assert records.find("broken") is None
    assert records.find("b") is None
    records.remove("a-1.5")
    records.remove("a-1.5")
    assert records.read() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.sock", "broken.json"]
