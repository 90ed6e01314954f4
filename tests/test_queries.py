"""The rules of a query: what is read out of a text, and which lines are fit to show."""

import pytest

from stages.support.errors import UserError
from stages.support.prompts import Template
from stages.tasks.queries import content_words, mentions_name, own_name, parse, render, well_formed

PAGE = {
    "id": "numpy.linalg.svd",
    "title": "numpy.linalg.svd",
    "text": "Singular Value.",
    "metadata": {"name": "svd"},
}


def page(name: str) -> dict:
    return {**PAGE, "title": name, "metadata": {}}


def test_parse_drops_bullets_numbers_quotes_blanks_and_repeats():
    text = """
    - how to sort an array
    * sort an array
    1. numpy   sort
    2) "stable sort of rows"
    (3) **sort by key**
    Query 4: argsort of a column

    ---
    How To Sort An Array
    """
    assert parse(text) == [
        "how to sort an array",
        "sort an array",
        "numpy sort",
        "stable sort of rows",
        "sort by key",
        "argsort of a column",
    ]


@pytest.mark.parametrize(
    "line", ["3d surface plot", "2.5 percentile of data", "1st derivative", "a* search path", "-1 index"]
)
def test_parse_leaves_text_that_only_looks_like_numbering(line):
    assert parse(line) == [line]


def test_parse_of_nothing_is_nothing():
    assert parse("") == parse(" \n\n - \n * * *\n```\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "how to sort an array",
        "pandas read_csv skip rows",
        "what is the svd of a matrix?",
        "tri par clé décroissante",
        "matrix times matrix transpose",
        " ".join(f"word{i}" for i in range(16)),
    ],
)
def test_well_formed(line):
    assert well_formed(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sort",
        "how to do it",
        "numpy array array",
        "sort array sort array",
        "masked array as masked input masked",
        " ".join(f"word{i}" for i in range(17)),
        "x" * 70 + " " + "y" * 70,
        "sort\x07 an array",
        "sort an array <|end|>",
        "```python sort",
        "# sort an array",
        "Assistant: sort an array",
        "query: sort an array",
        "Here are five queries:",
        "see [sort](x) here",
        "<b>sort an array</b>",
    ],
)
def test_not_well_formed(line):
    assert not well_formed(line)


def test_content_words():
    assert content_words("How to use np.read_csv with 2 files") == ["np", "read", "csv", "2", "files"]
    assert content_words("what is it of the") == []


def test_own_name():
    assert own_name(PAGE) == "svd"
    assert own_name(page("Some title")) == "Some title"


@pytest.mark.parametrize(
    "line, name",
    [
        ("pandas read csv in chunks", "read_csv"),
        ("readcsv in chunks", "read_csv"),
        ("csv files to read", "read_csv"),
        ("a forest classifier that is random", "RandomForestClassifier"),
        ("transpose T of an array", "T"),
        ("use SVD now", "svd"),
    ],
)
def test_mentions_name(line, name):
    assert mentions_name(line, page(name))


@pytest.mark.parametrize(
    "line, name",
    [
        ("load a table from disk", "read_csv"),
        ("read a table", "read_csv"),
        ("sort rows that fit", "T"),
        ("anything", ""),
    ],
)
def test_does_not_mention_name(line, name):
    assert not mentions_name(line, page(name))


def test_render_and_its_errors(tmp_path):
    path = tmp_path / "teacher.md"
    path.write_text("Page {{ document.title }}: {{ document.text | words(1) }}\n")
    assert render(Template(path), {**PAGE, "split": "train"}) == "Page numpy.linalg.svd: Singular"
    path.write_text("{{ document.summary }}")
    with pytest.raises(UserError, match=r"teacher\.md.*summary"):
        render(Template(path), PAGE)
    path.write_text("{{ dokument }}")
    with pytest.raises(UserError, match=r"teacher\.md.*'dokument' is undefined.*document"):
        render(Template(path), PAGE)
    path.write_bytes(b"one\ncaf\xe9")
    with pytest.raises(UserError, match=r"teacher\.md, line 2: byte 0xe9 is not UTF-8"):
        Template(path)
