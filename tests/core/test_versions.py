"""dvc.lock as it is read beside DVC: hashes, or one line about what is wrong."""

import pytest

from stages.core.errors import UserError
from stages.core.versions import LOCK, locked_hashes

LOCKED = """schema: '2.0'
stages:
  corpus@d:
    cmd: python -m stages corpus d
    outs:
    - path: data/d/corpus
      hash: md5
      md5: 0a1b
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_hashes_of_outputs():
    assert locked_hashes() == {}
    LOCK.write_text(LOCKED)
    assert locked_hashes() == {"data/d/corpus": "0a1b"}


@pytest.mark.parametrize(
    "text",
    [
        LOCKED.replace("      md5: 0a1b", "<<<<<<< a\n      md5: 0\n=======\n      md5: 1\n>>>>>>> b"),
        LOCKED[: LOCKED.index("    outs")] + "    outs: 7\n",
        "- a\n- b\n",
        "stages: none\n",
        "stages:\n  corpus@d: {outs: [{md5: 1}]}\n",
    ],
)
def test_what_is_no_lock_is_told_in_one_line(text):
    LOCK.write_text(text)
    with pytest.raises(UserError, match=r"^dvc\.lock.*take one side of a merge, or delete it") as told:
        locked_hashes()
    assert "\n" not in str(told.value)
