"""The rules of a query: what is read out of a text, and which lines are fit to show."""

import pytest

from stages.core.errors import UserError
from stages.core.prompts import Template, render
from stages.core.text import content_words
from stages.kinds import registry
from stages.kinds.xc.parts import queries
from stages.kinds.xc.parts.queries import (
    from_url,
    lines,
    mentions_name,
    own_name,
    parse,
    parse_answer,
    reject,
    well_formed,
)
from stages.kinds.xc.parts.tasks import TASKS

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


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1.退款多久到账\n2、如何退货\n（3）换货\n④保修期", ["退款多久到账", "如何退货", "换货", "保修期"]),
        ("「返品方法」\n・送料はいくら", ["返品方法", "送料はいくら"]),
        ("\u200f1. מדיניות החזרה\u200f", ["מדיניות החזרה"]),
        ("re\u00adturn a parcel\nRETURN A\u200b PARCEL\nｒｅｔｕｒｎ a parcel", ["return a parcel"]),
        ("trả hàng\ntra\u0309 ha\u0300ng", ["trả hàng"]),
        ("👨‍👩‍👧 tickets\nمی‌خواهم", ["👨‍👩‍👧 tickets", "می‌خواهم"]),
    ],
)
def test_parse_reads_every_script(text, expected):
    assert parse(text) == expected


def test_parse_of_nothing_is_nothing():
    assert parse("") == parse(" \n\n - \n * * *\n```\n") == []


def test_lines_know_where_they_stand():
    assert lines("\n1. sort rows\n\n```\n- Sort Rows") == [(1, "sort rows"), (4, "Sort Rows")]
    assert lines("") == []


def test_what_is_written_for_the_student_reads_back():
    answer = parse_answer("1. how to sort\n2. sort rows by key")
    assert queries.output(answer) == "how to sort\nsort rows by key"
    assert parse_answer(queries.output(answer)) == queries.flat(answer) == answer
    assert registry.task("queries") is TASKS["queries"] is queries.TASK


@pytest.mark.parametrize(
    "line",
    [
        "how to sort an array",
        "pandas read_csv skip rows",
        "what is the svd of a matrix?",
        "tri par clé décroissante",
        "matrix times matrix transpose",
        " ".join(f"word{i}" for i in range(16)),
        "退款多久到账",
        "如何退回已购买的商品并获得全额退款？",
        "返品の送料は誰が負担しますか",
        "วิธีคืนสินค้าที่ซื้อมาแล้วและขอเงินคืน",
        "ទំនិញ ត្រឡប់",
        "כיצד להחזיר מוצר\u200f",
        "كيف أعيد المنتج",
        "می‌خواهم کالا را پس بدهم",
        "उत्पाद कैसे लौटाएं",
        "👨‍👩‍👧 family tickets",
        "return\u200b a parcel",
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
        "退",
        "以下是五个查询：",
        "退货退货退货退货",
        "ﾊﾟ" * 25,
        "退回您在本店购买的商品" * 5,
        "sort \ue000 an array",
    ],
)
def test_not_well_formed(line):
    assert not well_formed(line)


WAR = "http://www.theweek.co.uk/59782/how-did-the-first-world-war-start"


@pytest.mark.parametrize(
    "line, url",
    [
        ("how did the first world war start", WAR),
        ("the start of the first world war", WAR),  # articles and prepositions are not in every URL
        ("World War, First!", WAR),
        ("worldwar start", WAR),  # two of its words as one
        ("first world war", "https://firstworldwar.com/origins.htm"),
        ("origins of the first world war", "https://firstworldwar.com/origins.htm"),
        ("world war origins", "https://firstworldwar.com/origins.htm"),
        ("hot dog", "http://hotdog.com"),
        ("history of france", "http://example.org/historyfrance"),
        ("wifi set up", "http://example.org/wi-fi_set-up.html"),
        ("naïve café", "http://example.org/na%C3%AFve+caf%C3%A9"),
        ("l3 vertebrae", "https://www.laserspineinstitute.com/back_problems/vertebrae/l3/"),
        ("laser spine institute", "https://www.laserspineinstitute.com/back_problems/vertebrae/l3/"),
        ("facebook com", "https://www.facebook.com"),
    ],
)
def test_a_query_whose_words_all_come_from_the_url(line, url):
    assert from_url(line, url)
    assert reject(line, {"metadata": {"url": url}}) == "only words of the URL"


@pytest.mark.parametrize(
    "line, url",
    [
        ("what started the first world war", WAR),
        ("ww1 start", WAR),
        ("start of the art", WAR),  # `art` stands in `start`, but is no word of the URL
        ("the the", WAR),
        ("how war", "https://firstworldwar.com"),
        ("war first", "https://firstworldwar.com"),  # not in this order
        ("or igin", "https://firstworldwar.com/origins.htm"),  # too short to be more than an accident
        ("hot dogs", "http://hotdog.com"),
        ("l3 mri review", "https://www.laserspineinstitute.com/back_problems/vertebrae/l3/"),
        ("first world war", ""),
        ("first world war", "///"),
    ],
)
def test_a_query_with_a_word_of_its_own(line, url):
    assert not from_url(line, url)


def test_copies_of_known_queries_are_rejected_however_they_are_written():
    page = {**PAGE, "metadata": {"queries": ["what is a neuron?", "Motor neuron", "wi-fi range"]}}
    for line in ("What is a neuron", "what  is a NEURON??", "motorneuron in", "Wifi range", "motor neuron"):
        expected = None if line == "motorneuron in" else "a copy of a known query"
        assert reject(line, page) == expected, line
    assert reject("what is a motor neuron", page) is None
    assert reject("neuron", page) == "not well-formed"
    odd = ({"url": 5, "queries": "motor neuron"}, {"url": ["motor", "neuron"], "queries": [{"a": 1}, 5]})
    for metadata in ({}, {"queries": []}, {"url": "", "queries": None}, *odd):
        assert reject("motor neuron", {**PAGE, "metadata": metadata}) is None


def test_an_answer_keeps_what_fits_in_its_order():
    page = {**PAGE, "metadata": {"url": WAR, "queries": ["ww1 causes"]}}
    answer = ["who started ww1", "WW1 causes", "war", "first world war", "alliances before ww1"]
    assert queries.fit(answer, page) == ["who started ww1", "alliances before ww1"]


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
