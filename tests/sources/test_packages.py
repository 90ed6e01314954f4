"""Files of the package index: taken from data/packages/ by name, refused by hash."""

from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.core.hashing import sha256_text
from stages.sources.packages import package_file


@pytest.mark.parametrize("name", ["some_plays-0.6.tar.gz", "some_plays-0.6-py3-none-any.whl"])
def test_a_wheel_or_an_archive_that_is_there_is_not_fetched(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("data/packages").mkdir(parents=True)
    path = Path("data/packages", name)
    path.write_text("act one")
    assert package_file("Some-Plays", "0.6", sha256_text("act one"), "recall") == path
    with pytest.raises(UserError, match=r"^recall\.sha256: data/packages/some_plays-0\.6.* has sha256 "):
        package_file("Some-Plays", "0.6", "0" * 64, "recall")
