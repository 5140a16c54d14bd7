"""What an instance says of its reload."""

import pytest

from gapless.core.errors import Busy, ReloadRefused
from gapless.fleet.admin import Answer
from gapless.fleet.reload import read_answer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"generation": 2, "stages": [{"name": "prepared", "took_s": 0.5}, {"name": "serving", "took_s": 0.51}]}',
            "generation 2: prepared after 500 ms, serving after 510 ms",
        ),
        ("done", "done"),
        ("[]", "[]"),
        ("{}", "{}"),
    ],
)
def test_done(text, says):
    assert read_answer("a", Answer(200, text)) == says


@pytest.mark.parametrize(("status", "kind"), [(409, Busy), (422, ReloadRefused), (405, ReloadRefused)])
def test_refused(status, kind):
    with pytest.raises(kind, match=r"a.*no such module\nlast line") as caught:
        read_answer("a", Answer(status, '{"error": "no such module", "log": ["last line"], "remedy": "write it"}'))
    assert caught.value.remedy == "write it"
    with pytest.raises(kind, match="plain words"):
        read_answer("a", Answer(status, "plain words"))
