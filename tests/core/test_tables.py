"""CSV as spreadsheets save it: no row is swallowed, no column is lost."""

import pytest

from stages.core.errors import UserError
from stages.core.tables import read_table


def read(tmp_path, text: str, name: str = "x.csv", **options) -> list:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return list(read_table(path, **options)[1])


@pytest.mark.parametrize(
    "text",
    [
        'id,title,text\nb1,x,y\nb2,x,"Parcel desk\nb3,x,y\nb4,x,Ask for the "parcel desk\nb5,x,y\n',
        'id,text\na,"no end\nb,x\n',
        'id,text\na,x\nb,"smart quote”\nc,x\n',
        'id,text\na,"24" screen\nb,x\n',
        'id;text\na;"semicolons\nb;24" x\n',
        'id\ttext\na\t"tabs\nb\tsay "hello"\n',
        'id,"text\na,b\n',
        'id,text\na,"the last cell of the file',
        'query,document_id\n"lost,a\nfound,"b\n',
    ],
)
def test_a_quote_that_is_not_closed_swallows_nothing(tmp_path, text):
    with pytest.raises(UserError, match=r"x.csv, (row \d|header): not valid CSV"):
        read(tmp_path, text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("before", ["", "sep={}{}", "\ufeff", "\ufeff" + '"sep={}"{}'])
def test_every_separator_gives_the_same_rows(tmp_path, separator, end, before):
    cells = [
        ["id", '"title, of it;"', "text"],
        ["a", '"Help, ""a"";\n\tb"', '24" screen'],
        ["", " ", ""],
        ["b", "", "'x'"],
        ["", "", "", "", ""],
        ["c", "", "y", "", ""],
        [""],
    ]
    text = before.format(separator, end) + end.join(separator.join(row) for row in cells)
    assert read(tmp_path, text) == [
        (1, {"id": "a", "title, of it;": 'Help, "a";\n\tb', "text": '24" screen'}),
        (3, {"id": "b", "title, of it;": "", "text": "'x'"}),
        (5, {"id": "c", "title, of it;": "", "text": "y"}),
    ]


def test_a_tsv_has_tabs_whatever_its_header(tmp_path):
    assert read(tmp_path, "text\na, b; c\n", "x.tsv") == [(1, {"text": "a, b; c"})]
    assert read(tmp_path, "a;b,c\td\n1\t2\n", "x.TSV", first=2) == [(2, {"a;b,c": "1", "d": "2"})]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,text,text\na,b,c\n", "two columns are called 'text'"),
        ("id, text ,text\n", "two columns are called 'text'"),
        ("id;text;id;x\n", "two columns are called 'id'"),
        ("id,,,text\n", "two columns are called ''"),
        ("id,text,,\na,b,,c\n", "row 1: more fields than the header, 4 for 2"),
        ("id,text\n\na,b\nc\n", "row 3: fewer fields than the header, 1 for 2"),
        ("id;text\na;b;c\n", "row 1: more fields .*hold ';'"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(tmp_path, text, why):
    with pytest.raises(UserError, match=why):
        read(tmp_path, text)
