"""The embedded dataset: sections, cleaning, what See Also means; and the embedded teacher's rules."""

import pytest

from demo.teacher.queries import answer, queries
from stages.kinds.xc.parts.queries import well_formed
from stages.sources import pydoc

DOC = """svd(a, full_matrices=True)

Singular Value Decomposition.

When `a` is a 2D array it is factorized, see :func:`~numpy.linalg.qr`.

Parameters
----------
a : array_like
    A real array.

See Also
--------
scipy.linalg.svd : Similar function in SciPy.
qr, eigh : Factor a matrix
    in another way.

Examples
--------
>>> svd(1)
"""


def test_sections_are_told_apart():
    sections = pydoc.split_sections(DOC)
    assert list(sections) == ["", "Parameters", "See Also", "Examples"]
    assert pydoc.split_sections("Just a line.") == {"": "Just a line."}


def test_a_page_is_plain_text():
    text = pydoc.clean(pydoc.split_sections(DOC)[""])
    assert text.startswith("Singular Value Decomposition.")  # the signature is gone
    assert "see numpy.linalg.qr." in text and "`" not in text


def test_see_also_descriptions_are_paired_with_the_page_they_are_about():
    aliases = {
        name: name for name in ("numpy.linalg.svd", "numpy.linalg.qr", "scipy.linalg.svd", "scipy.linalg.qr")
    }
    related = {"numpy.linalg.svd": pydoc.split_sections(DOC)["See Also"]}
    texts, pairs = pydoc._observed(pydoc._links(aliases, related))
    text = {query["id"]: query["text"] for query in texts}
    assert {(text[pair["query_id"]], pair["document_id"]) for pair in pairs} == {
        ("Similar function in SciPy", "scipy.linalg.svd"),
        ("Factor a matrix in another way", "numpy.linalg.qr"),  # eigh has no page; the nearest qr is meant
    }


def test_aliases_lead_to_the_page_that_holds_the_text():
    texts, pairs = pydoc._observed(
        pydoc._links({"p.A.run": "p.A.run", "p.B.run": "p.A.run"}, {"p.go": "B.run : Starts the thing\n"})
    )
    assert [pair["document_id"] for pair in pairs] == ["p.A.run"] and texts[0]["text"] == "Starts the thing"


def test_printed_sets_and_addresses_are_the_same_in_every_process():
    one = pydoc.clean("Use of argument(s) {'b', 'a'} by position. <object at 0x7f01>")
    two = pydoc.clean("Use of argument(s) {'a', 'b'} by position. <object at 0x9c22>")
    assert one == two


TEXT = "Compute the singular value decomposition. The factors are unitary.\n\nParameters\n\nmode : str\n"


def test_the_embedded_teacher_reads_the_document_of_the_request():
    prompt = f"Write queries.\n<document>\nTitle: numpy.linalg.svd\n{TEXT}</document>\nNow."
    lines = answer([{"role": "system", "content": "x"}, {"role": "user", "content": prompt}]).splitlines()
    assert lines[0] == "numpy svd"
    assert "how to compute the singular value decomposition in numpy" in lines
    assert "svd mode parameter" in lines
    assert all(well_formed(line) for line in lines) and len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("Returns the mean of rows.", "how to get the mean of rows in pandas"),
        ("Return True if the frame is empty.", "how to check whether the frame is empty in pandas"),
        ("Whether the index has duplicates.", "how to check whether the index has duplicates in pandas"),
        ("Obtains a sorted copy.", "how to obtain a sorted copy in pandas"),
        ("A sparse array of numbers, or none.", "what is sparse array of numbers in pandas"),
    ],
)
def test_questions_follow_the_first_sentence(sentence, question):
    assert question in queries("pandas.DataFrame.thing", sentence)


def test_titles_that_are_no_dotted_names_work_too():
    lines = queries("What is Showroom?", "Showroom is a collection of curated brands.\nFind it on the site.")
    assert lines[0] == "what is showroom" and all(well_formed(line) for line in lines)


@pytest.mark.slow
def test_pages_do_not_depend_on_what_was_imported_before():
    """scipy.signal rewrites the docstring of numpy.sinc as soon as it is imported."""
    import numpy as np
    import scipy.signal  # noqa: F401

    assert "Array API" in np.sinc.__doc__
    documents, queries, pairs = pydoc.read_pydoc()
    sinc = next(document for document in documents if document["id"] == "numpy.sinc")
    assert "Array API" not in sinc["text"] and len(documents) > 9000 and queries and pairs
