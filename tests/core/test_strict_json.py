"""Every reader of JSON refuses what is none, or could not be written again, in one line."""

from pathlib import Path

import pytest

from stages.core import files, rows
from stages.core.errors import UserError
from stages.core.strict_json import parse_json
from stages.kinds.skills.parts.scored_rows import read_rows
from stages.sources.data_files import rows_of

READERS = {
    "object.json": lambda path: files.read_json(path),
    "lines.jsonl": lambda path: files.read_jsonl(path),
    "records.jsonl": lambda path: list(rows.records(path)),
    "array.json": lambda path: list(rows.records(path)),
    "folder.json": lambda path: list(rows_of([path])),
    "scored.json": lambda path: read_rows(path),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("NaN", "field 'a': NaN is no number"),
        ("[1, {'b': [-Infinity]}]", "field 'a': -Infinity is no number"),
        ("1e999", "field 'a': 1e999 is no number"),
        ("1, 'b': 2, 'a': 1", "the field 'a' stands there twice"),
        ("{'b': 1, 'b': null}", "the field 'b' stands there twice"),
        ("9" * 5000, "a number with too many digits"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 800 + "]" * 800, "nested too deeply"),
        ("{'b': " * 960 + "1" + "}" * 960, "nested too deeply"),
        (r"'\ud800'", "half of a character"),
        (r"['\uD83D\ude00', {'\uDE00': 1}]", "half of a character"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, name, value, why):
    text = f'{{"user": "x", "answer": "y", "a": {value}}}'.replace("'", '"')
    path = tmp_path / name
    path.write_text(f"[{text}]" if name in ("array.json", "folder.json", "scored.json") else text)
    with pytest.raises(UserError) as told:
        READERS[name](path)
    assert "not valid JSON" in str(told.value) and len(str(told.value).splitlines()) == 1
    assert why in str(told.value).replace('"', "'") and ("row 1" in str(told.value) or name[0] in "os")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "value", ["1" * 4000, "-0.5e-9", "[" * 600 + "]" * 600, r"'\ud83d\ude00 \\ud800'", "{'b': {'a': null}}"]
)
def test_odd_json_that_is_some_is_read(tmp_path, name, value):
    text = f'{{"user": "x", "answer": "y", "a": {value}}}'.replace("'", '"')
    path = tmp_path / name
    path.write_text("\ufeff" + (f"[{text}]" if name == "array.json" else text))  # with the mark of Windows
    assert READERS[name](path)


@pytest.mark.parametrize("text", ["", " ", "1 2", "[1] [2]", "{} x"])
def test_a_text_is_one_value(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_utf_16_is_called_so(tmp_path):
    for coding in ("utf-16-le", "utf-16-be"):
        path = Path(tmp_path / "x.json")
        path.write_bytes(('\ufeff[{"a": 1}]').encode(coding))
        for read in (files.read_json, files.read_jsonl, lambda path: list(rows.records(path))):
            with pytest.raises(UserError, match="UTF-16"):
                read(path)
