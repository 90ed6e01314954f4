"""PDFs become pages and paragraphs in reading order; what cannot be read is told, all of it at once."""

import random
from pathlib import Path

import pypdfium2
import pytest

from stages.core.errors import UserError
from stages.sources.papers import in_processes, pdfs_at, read_paper, read_papers
from stages.sources.pdf import HYPHEN, Line, read_pages
from stages.sources.pdf_layout import Placed, Spelling, blocks
from tests.helpers import deadly
from tests.helpers.drawn_pdf import HEIGHT, LEFT, RIGHT, WIDTH, draw, lines, paper, paragraph

BOTH = ("covers", "references")
SAI = Path(__file__).parents[3] / "shared/data/sai/single_paper.pdf"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def paragraphs(path, skip=BOTH) -> list[str]:
    return [one.text for one in read_paper(Path(path), skip).paragraphs]


def two_columns(order=None) -> list:
    """A page of four paragraphs, two in each column, under a title and an abstract across both."""
    texts = [(150, 60, "A Title Across Both Columns", 16)]
    texts += lines(paragraph(0), 100, 90, width=90, size=8)
    columns = lines(paragraph(1), LEFT, 200, indent=12) + lines(paragraph(2), LEFT, 320, indent=12)
    columns += lines(paragraph(3), RIGHT, 200, indent=12) + lines(paragraph(4), RIGHT, 320, indent=12)
    return texts + (sorted(columns, key=order) if order else columns)


@pytest.mark.parametrize(
    "order",
    [
        None,
        lambda text: text[1],  # row by row, as some programs write tables and columns
        lambda text: random.Random(text[2]).random(),
    ],
    ids=["in order", "by rows", "at random"],
)
def test_columns_are_read_one_after_the_other(order):
    draw("a.pdf", [two_columns(order)])
    read = read_paper(Path("a.pdf"), BOTH)
    assert read.title == "A Title Across Both Columns"
    assert [one.text for one in read.paragraphs] == [paragraph(n) for n in range(5)]
    assert [(one.page, one.number) for one in read.paragraphs] == [(1, n) for n in range(1, 6)]


def test_a_paragraph_goes_on_in_the_next_column_and_on_the_next_page():
    first, second, third = (lines(paragraph(n, 60), LEFT, 100, indent=12) for n in (1, 2, 3))
    moved = [(RIGHT, 100 + 12 * n, text, size) for n, (_, _, text, size) in enumerate(second[3:])]
    begun = [(LEFT + (x - LEFT), y + 200, text, size) for x, y, text, size in second[:3]]
    rest = [(LEFT, 60 + 12 * n, text, size) for n, (_, _, text, size) in enumerate(third[4:])]
    last = [(RIGHT + (x - LEFT), y + 120, text, size) for x, y, text, size in third[:4]]
    draw("a.pdf", [first + begun + moved + last, [*rest, *lines(paragraph(4), LEFT, 300, indent=12)]])
    read = read_paper(Path("a.pdf"), BOTH)
    assert [one.text for one in read.paragraphs] == [
        paragraph(1, 60),
        paragraph(2, 60),
        paragraph(3, 60),
        paragraph(4),
    ]
    assert [(one.page, one.number) for one in read.paragraphs] == [(1, 1), (1, 2), (1, 3), (2, 1)]


def test_words_that_line_ends_broke_are_whole_again():
    text = (
        "The crea-|tivity of scien-|tific work is cross-|disciplinary, as cross-disciplinary teams know, and "
        "a 12-|year-old can show it. Open minds and ended debates make open-|ended questions; the so\u00ad|"
        "ft hyphen goes, of\ufb01ce and \ufb02ow lose their liga\u00adtures."
    )
    draw("a.pdf", [lines(text, LEFT, 100, width=200)])
    assert paragraphs("a.pdf") == [
        "The creativity of scientific work is cross-disciplinary, as cross-disciplinary teams know, and a "
        "12-year-old can show it. Open minds and ended debates make open-ended questions; the soft hyphen "
        "goes, office and flow lose their ligatures."
    ]


def test_a_paper_that_breaks_no_word_keeps_its_hyphens():
    plain = ["a line of a paper whose typesetter breaks no words"] * 150
    assert Spelling([*plain, "with lower-", "casing of names"]).joined(["lower-", "casing"]) == "lower-casing"
    often = [
        text for n in range(50) for text in ("a line that ends in crea-", "tivity and goes on", "and on")
    ]
    assert Spelling([*often, "with lower-", "casing of names"]).joined(["lower-", "casing"]) == "lowercasing"


def test_heads_numbers_headings_captions_formulas_and_notes_are_no_paragraphs():
    pages = []
    for number in (1, 2, 3):
        texts = [
            (LEFT, 30, f"{number} A. Author and B. Author", 8),
            (WIDTH / 2, HEIGHT - 20, f"- {number} -", 8),
        ]
        texts += [(LEFT, 90, f"{number}. A Heading of {'abc'[number - 1]}", 13)]
        texts += lines(paragraph(number), LEFT, 120, indent=12)
        texts += lines(f"Figure {number}. What is drawn, in a caption that says so.", LEFT, 260)
        texts += [(LEFT, 300, "E = m · c² + Σ x_i / (1 − β²)", 9)]
        texts += lines(paragraph(number + 10), LEFT, 340, indent=12)
        texts += lines(
            "1 A note of many small words that stands at the foot of its page.", LEFT, 600, width=90, size=7
        )
        pages.append(texts)
    read = read_paper(draw("a.pdf", pages), BOTH)
    assert [one.text for one in read.paragraphs] == [paragraph(n) for n in (1, 11, 2, 12, 3, 13)]
    assert read.left_out["heads"] == 6
    assert {kind: read.left_out[kind] for kind in ("captions", "formulas", "notes")} == {
        "captions": 3,
        "formulas": 3,
        "notes": 3,
    }
    assert "Author" not in read.pages[0].text
    assert "Figure 1. What is drawn" in read.pages[0].text


def test_a_paragraph_goes_on_behind_a_figure():
    begun = f"A sentence stands alone. {paragraph(1).removesuffix('.')}"
    texts = lines(begun, LEFT, 100, indent=12)
    texts += lines("Figure 1: a caption.", LEFT, 300) + lines("and then it ends.", LEFT, 340)
    assert paragraphs(draw("a.pdf", [texts])) == [f"{begun} and then it ends."]


def test_covers_and_references_are_left_out_and_counted():
    cover = lines(
        "To cite this article: A. Author (2020) A Paper|Article views: 12|ISSN: 1234-5678", LEFT, 60, 90
    )
    listed = lines("1. Author, A. A book of some length, with a publisher. Town, 1999.", LEFT, 320)
    body = lines(paragraph(1), LEFT, 60, indent=12)
    pages = [
        cover,
        [*body, (LEFT, 300, "References", 12), *listed],
        listed,
        [(LEFT, 60, "Appendix", 12), *lines(paragraph(2), LEFT, 90, indent=12)],
    ]
    draw("a.pdf", pages)
    read = read_paper(Path("a.pdf"), BOTH)
    assert [one.text for one in read.paragraphs] == [paragraph(1), paragraph(2)]
    assert (read.skipped["covers"], read.skipped["references"]) == (1, 2)
    assert [page.number for page in read.pages] == [2, 4]
    kept = read_paper(Path("a.pdf"), ())
    assert [page.number for page in kept.pages] == [1, 2, 3, 4]
    assert kept.skipped["covers"] == kept.skipped["references"] == 0


def test_text_from_right_to_left_keeps_its_order():
    right = "זהו משפט ארוך בעברית שיש בו יותר מעשר מילים כדי שיהיה פסקה שלמה וברורה."
    left = "משפט שני בטור השמאלי שגם בו יש יותר מעשר מילים כדי שיהיה פסקה אחרת לגמרי."
    draw("a.pdf", [lines(left, LEFT, 100, 30) + lines(right, RIGHT, 100, 30)])
    assert paragraphs("a.pdf") == [right, left]


def test_a_page_that_lies_on_its_side_is_read():
    texts = lines(paragraph(1), 60, 100, width=60, indent=12) + lines(
        paragraph(2), 60, 300, width=60, indent=12
    )
    assert paragraphs(draw("a.pdf", [texts], turned=90)) == [paragraph(1), paragraph(2)]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_glyphs_without_a_meaning_are_left_out_and_told(capsys):
    draw("a.pdf", [lines(paragraph(1).replace("says", "\ue001\ue002 says"), LEFT, 100, indent=12)])
    [read] = read_papers("corpus_papers d", "a.pdf", BOTH)
    assert [one.text for one in read.paragraphs] == [paragraph(1)]
    assert [page.unknown for page in read.pages] == [2]
    assert "warning: a.pdf: 2 glyphs without a meaning" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Glyph")
def test_letters_beyond_the_first_plane_do_not_shift_words():
    text = f"𝔘𝔫𝔦𝔠𝔬𝔡𝔢 letters 𝑥 and 𝑦 stand before others. {paragraph(1)}"
    draw("a.pdf", [lines(text, LEFT, 100, indent=12)])
    assert paragraphs("a.pdf") == [text]


def test_a_line_without_height_ends_nothing():
    words = Line("a line that a broken font gives no height", 60, 700, 300, 700, 400)
    placed_lines = [Placed(words._replace(bottom=y, top=y), 1, 60, 300) for y in (700, 688, 676)]
    assert sum(len(block.lines) for block in blocks(placed_lines)) == 3


def bad_files(folder: Path) -> None:
    good = paper(folder / "good.pdf", [1, 2, 3]).read_bytes()
    (folder / "empty.pdf").touch()
    (folder / "words.PDF").write_text("no PDF at all")
    (folder / "cut.pdf").write_bytes(good[: len(good) // 3])
    draw(folder / "blank.pdf", [[]])
    many = pypdfium2.PdfDocument.new()
    for _ in range(2001):
        many.new_page(9, 9)
    many.save(folder / "many.pdf")
    (folder / "zero.pdf").write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Size 3/Root 1 0 R>>\n%%EOF"
    )
    # /Encrypt asks for a password that the empty one is not: its check fails.
    entry = (
        b"/Encrypt<</Filter/Standard/V 1/R 2/O(" + b"o" * 32 + b")/U(" + b"u" * 32 + b")/P -4>>/ID[(ab)(ab)]"
    )
    (folder / "locked.pdf").write_bytes(good.replace(b"trailer\n<<", b"trailer\n<< " + entry))
    (folder / "lost.pdf").write_bytes(good.replace(b"startxref", b"startnone"))  # pdfium finds what it needs
    (folder / "broken.pdf.bak").write_text("left alone")


def test_all_files_that_cannot_be_read_are_told_in_one_line(tmp_path):
    bad_files(tmp_path)
    with pytest.raises(UserError) as told:
        read_papers("corpus_papers d", str(tmp_path), BOTH)
    message = str(told.value)
    assert "\n" not in message
    for expected in (
        "blank.pdf: has no text: a scan",
        "cut.pdf: is broken, or cut off",
        "empty.pdf: is empty",
        "locked.pdf: is encrypted",
        "many.pdf: has 2,001 pages, expected at most 2,000",
        "words.PDF: is no PDF, it begins with b'no PDF a'",
        "zero.pdf: is broken, or cut off",
        "(7 of 9 files)",
    ):
        assert expected in message
    for good in ("good.pdf", "lost.pdf", ".bak:"):
        assert good not in message


def test_a_file_that_ends_its_process_is_named_and_others_are_read():
    files = [paper(name, [1, 2]) for name in ("a.pdf", "deadly.pdf", "z.pdf")]
    first, dead, last = in_processes(deadly.read, files)
    assert dead == "deadly.pdf: is broken: the process that reads it dies"
    assert [one.path.name for one in (first, last)] == ["a.pdf", "z.pdf"]


def test_where_no_pdf_is(tmp_path):
    with pytest.raises(UserError, match="none: no such file or folder; set `path`"):
        pdfs_at("none")
    with pytest.raises(UserError, match="holds no PDF"):
        pdfs_at(".")
    for folder in ("one", "two"):
        Path(folder).mkdir()
        paper(Path(folder, "same.pdf"), [1])
    with pytest.raises(UserError, match=r"one/same.pdf and two/same.pdf: two PDFs of one name"):
        pdfs_at(".")


@pytest.mark.skipif(not SAI.is_file(), reason="the paper of the original is not part of the repository")
def test_the_paper_of_the_original():
    found = [line.text for page in read_pages(SAI)[0] for line in page.lines]
    # as pdfium counts them, for which a word that a line end broke is one
    assert sum(len(text.split()) for text in found) - sum(text.endswith(HYPHEN) for text in found) == 6405
    assert len(read_paper(SAI, ()).pages) == 16
    read = read_paper(SAI, BOTH)
    assert (read.skipped["covers"], read.skipped["references"], len(read.pages)) == (1, 2, 13)
    assert read.title == "A scientific creativity test for secondary school students"
    text = " ".join(page.text for page in read.pages)
    assert "scientific creativity of scientists" in text
    assert "crea-" not in text
    assert "scientific creativity of secondary school students, as a domain creativity" in " ".join(
        one.text for one in read.paragraphs
    )
