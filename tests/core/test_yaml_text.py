"""YAML of people: every mistake is one line, and aliases make nothing large."""

import time

import pytest

from stages.core.errors import UserError
from stages.core.yaml_text import read_yaml
from stages.kinds.skills.parts.files import read_source
from stages.params import read


def laughs(inner: str) -> str:
    """Lists of lists of lists of `inner`."""
    lines = [f"a0: &a0 {inner}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join([*lines, "description: *a8\n"])


BAD = [
    (laughs("[lol, lol]"), "aliases"),
    (laughs("{k: v}").replace("[*", "{<<: [*").replace("]\n", "]}\n"), "aliases"),  # keys that are merged
    (f"a: &a {'x' * 5000}\nb: &b [{', '.join(['*a'] * 300)}]\n", "aliases"),
    ("a: &a [x, *a]\n", "aliases"),
    ("name: x\ndescription: a\x07b\n", r"line 2: .*'\\x07'"),
    ("é: 1\nb: 2\nc: \x00\n", r"line 3: .*'\\x00'"),
    ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ("[" * 200_000, "nested too deeply"),  # without a bound the loader in C is a segmentation fault
    ("{a: " * 200_000, "nested too deeply"),
    ("- " * 200_000, "nested too deeply"),
    ("a: 2024-13-45\n", "month must be in"),
    (f"a: {'9' * 5000}\n", "digits"),
    ("a: !!float x\n", "not valid YAML"),
    ("a: 1\nb: 2\na: 3\n", "duplicate key"),
    ("a: b: c\n", "line 1"),
    ("a: [1\nb: 2\n", "line 2"),
    ("a: !!python/object/apply:os.getcwd []\n", "constructor"),
]


@pytest.mark.parametrize(("text", "why"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_one_line_and_takes_no_time(tmp_path, text, why):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for reader in (read_yaml, read_source, read):
        started = time.monotonic()
        with pytest.raises(UserError, match=why) as told:
            reader(path)
        assert str(told.value).startswith(str(path)) and len(str(told.value).splitlines()) == 1
        assert time.monotonic() - started < 2


def test_aliases_of_a_common_size_are_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("\ufeffa: &a {b: [1, 2]}\nc: {<<: *a, d: *a}\n")
    assert read_yaml(path)["c"] == {"b": [1, 2], "d": {"b": [1, 2]}}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
