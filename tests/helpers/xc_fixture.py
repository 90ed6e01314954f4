"""Small made-up datasets in the true formats of extreme classification: ORCAS (queries to web pages) and
WikiHierarchy (articles to categories).

`orcas(folder)` and `wiki(folder)` write one and return what they wrote, the same on every call. Texts are
plain English about a few subjects, so that TF-IDF finds the pages of a query; a query or article has labels
that its training row does not know, as in a real log. Oddities that real data has are in both: a page without
text, two labels with the same text, a training point without labels, filter pairs.
"""

import gzip
import json
import random
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, save_npz

EMPTY, TWIN = 7, 11  # the row without body; the label whose text is that of label 10

# subject: (parts, problem, tool, place to find it, price)
SUBJECTS = {
    "sourdough bread": ("starter, flour and crust", "a dense crumb", "a proofing basket", "bakery", "6"),
    "tomato plants": ("leaves, roots and fruit", "blossom end rot", "a watering can", "garden centre", "4"),
    "road bikes": ("chain, brakes and wheels", "a slipping gear", "a torque wrench", "bike shop", "900"),
    "espresso machines": ("boiler, pump and portafilter", "sour shots", "a tamper", "coffee store", "450"),
    "solar panels": ("cells, glass and inverter", "shading loss", "a clamp meter", "energy supplier", "5000"),
    "acoustic guitars": ("neck, strings and frets", "a buzzing string", "a capo", "music shop", "250"),
    "hiking boots": ("sole, laces and tongue", "blisters on the heel", "seam wax", "outdoor store", "140"),
    "wood stoves": ("flue, grate and door", "smoke in the room", "a chimney brush", "hardware store", "1200"),
    "aquarium fish": ("tank, filter and gravel", "cloudy water", "a test kit", "pet shop", "35"),
    "sewing machines": (
        "needle, bobbin and presser foot",
        "skipped stitches",
        "a seam ripper",
        "mall",
        "180",
    ),
    "beehives": ("frames, queen and brood", "varroa mites", "a smoker", "beekeeping fair", "220"),
    "inflatable kayaks": ("hull, valve and paddle", "a slow leak", "a foot pump", "boat shop", "320"),
}
# facet: (title, sentences, queries)
FACETS = {
    "choose": (
        "How to choose {s}",
        "Beginners who choose {s} should compare {parts} before they buy. Size, weight and warranty matter "
        "more than the brand. A good {place} lets you try several models and explains which one fits you.",
        "how to choose {s}|best {s} for beginners|which {s} should i buy|{s} buying guide|compare {s} models|"
        "what to look for in {s}|{s} for a first time buyer|choosing the right {s}",
    ),
    "care": (
        "Care and maintenance of {s}",
        "Regular maintenance keeps {s} in good condition for years. Clean {parts} every month and store them "
        "dry. With {tool} the yearly service takes less than an hour, and nothing has to be replaced early.",
        "how to clean {s}|{s} maintenance schedule|how to care for {s}|storing {s} over winter|"
        "yearly service of {s}|keeping {s} in good condition|{s} cleaning tips|looking after {s}",
    ),
    "problems": (
        "Fixing common problems with {s}",
        "The usual problem with {s} is {problem}. The cause is mostly found in {parts}. First rule out "
        "a fault in the setup, then repair the damage with {tool} and check again after a week.",
        "how to fix {problem}|why do {s} have {problem}|{s} troubleshooting|{problem} causes|"
        "repair {s} at home|what causes {problem} in {s}|{s} common faults|get rid of {problem}",
    ),
    "cost": (
        "What {s} cost",
        "Prices of {s} start at about {price} euros, and running costs come on top. Second hand offers are "
        "cheaper but lack a warranty. A {place} often gives a discount when last year's stock goes.",
        "{s} price|how much do {s} cost|cheap {s} under {price} euros|second hand {s}|{s} discount offers|"
        "are {s} worth the money|average cost of {s}|{s} running costs",
    ),
    "history": (
        "A short history of {s}",
        "The history of {s} goes back more than a century. Early inventors built {parts} by hand; museums "
        "still show the first designs. Mass production after the war brought them into every household.",
        "history of {s}|who invented {s}|when were {s} invented|origin of {s}|old {s} in museums|"
        "early designs of {s}|{s} timeline|first {s} ever made",
    ),
}
NEIGHBOUR = {"choose": "cost", "cost": "choose", "care": "problems", "problems": "care", "history": "choose"}

# kind: (category, parent, sentence)
KINDS = {
    "Lake": ("Lakes of {p}", "Bodies of water of {p}", "is a freshwater lake in {p}, fed by snow melt"),
    "River": ("Rivers of {p}", "Bodies of water of {p}", "is a river in {p} that flows into the sea"),
    "Castle": (
        "Castles in {p}",
        "Historic buildings in {p}",
        "is a ruined medieval castle in {p}, on a hill",
    ),
    "Abbey": (
        "Monasteries in {p}",
        "Historic buildings in {p}",
        "is a former monastery in {p} with a cloister",
    ),
    "Brewery": ("Breweries of {p}", "Companies of {p}", "is a family brewery in {p} that sells pale ale"),
    "Shipyard": ("Shipyards of {p}", "Companies of {p}", "is a shipyard in {p} that builds fishing boats"),
    "Station": (
        "Railway stations in {p}",
        "Rail transport in {p}",
        "is a railway station in {p}, on two lines",
    ),
    "Tunnel": (
        "Railway tunnels in {p}",
        "Rail transport in {p}",
        "is a railway tunnel in {p}, cut in granite",
    ),
}
PLACES = ("Norway", "Portugal", "Scotland", "Bavaria", "Tuscany")
NAMES = "Orvela Tandrin Mosk Selwick Harrow Bentona Criva Dunmere Falk Garesta Illmar Jorvik Kestrel".split()


@dataclass
class Made:
    """A dataset in memory. `trn` and `tst` are the labels of each point; `metadata` has a row for each label
    (ORCAS) or training point (Wiki); `filters` are (row, column) of training and of test points.
    """

    trn_x: list[str]
    tst_x: list[str]
    y: list[str]
    trn: list[list[int]]
    tst: list[list[int]]
    metadata: list[dict]
    filters: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def matrix(self, which: str) -> csr_matrix:
        """float32 (points, labels) of `trn` or `tst`."""
        rows = getattr(self, which)
        columns = np.array([label for row in rows for label in row], dtype=np.int64)
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        shape = (len(rows), len(self.y))
        return csr_matrix((np.ones(len(columns), dtype=np.float32), (owner, columns)), shape=shape)


def orcas_made(labels: int = 60) -> Made:
    """Queries (points) and web pages (labels): 12 to 60 pages, six training and two test queries each."""
    draw = random.Random(20240815)
    pages = list(product(SUBJECTS, FACETS))[:labels]
    place_of = {page: place for place, page in enumerate(pages)}
    made = Made([], [], [], [], [], [])
    for label, (subject, facet) in enumerate(pages):
        title, body, queries = (_filled(text, subject) for text in FACETS[facet])
        asked = queries.split("|")
        near = place_of.get((subject, NEIGHBOUR[facet]))
        for query in asked[:6]:
            known = [label] + ([near] if near is not None and draw.random() < 0.3 else [])
            made.trn_x.append(query)
            made.trn.append(sorted(known))
        for query in asked[6:]:
            made.tst_x.append(query)
            made.tst.append(sorted({label, label if near is None else near}))
        url = f"https://www.{subject.replace(' ', '')}.example/{facet}"
        made.y.append(url)
        body = f"{body} This page is about {subject} and was written by our editors."
        # The last relevant query is one of the test's: nobody may show it in a prompt.
        row = {"url": url, "doc_title": title, "doc_body": body, "relevant_queries": [*asked[:4], asked[6]]}
        made.metadata.append(row)
    made.trn_x.append("how to get a passport photo")  # no label is about it
    made.trn.append([])
    made.metadata[EMPTY]["doc_body"] = ""
    made.y[TWIN] = made.y[TWIN - 1]
    made.metadata[TWIN]["url"] = made.y[TWIN]
    made.filters = {"train": [(3, made.trn[3][0])], "test": [(1, made.tst[1][-1]), (4, made.tst[4][0])]}
    return made


def _filled(text: str, subject: str) -> str:
    parts, problem, tool, place, price = SUBJECTS[subject]
    return text.format(s=subject, parts=parts, problem=problem, tool=tool, place=place, price=price)


def wiki_made(points: int = 60) -> Made:
    """Articles (points) and categories (labels): 12 to 90 training articles, 12 test articles, 60 labels."""
    draw = random.Random(20240816)
    y = sorted({text.format(p=place) for kind in KINDS for text in KINDS[kind][:2] for place in PLACES})
    column = {text: place for place, text in enumerate(y)}
    made = Made([], [], y, [], [], [])
    entities = draw.sample(list(product(NAMES, KINDS)), points + 12)
    for number, (first, kind) in enumerate(entities):
        name, place = f"{first} {kind}", draw.choice(PLACES)
        category, parent, sentence = (text.format(p=place) for text in KINDS[kind])
        true = sorted((column[category], column[parent]))
        if number >= points:
            made.tst_x.append(name)
            made.tst.append(true)
            continue
        made.trn_x.append(name)
        made.trn.append(true if draw.random() < 0.5 else [column[category]])
        made.metadata.append(
            {
                "title": name,
                "content": f"{name} {sentence}. It is {draw.randint(2, 90)} km from the capital.\n\n"
                f"The {kind.lower()} is listed among the {category}, and visitors know it for its "
                f"{draw.choice(('view', 'quiet', 'long past', 'yearly festival'))}.",
            }
        )
    made.trn[5] = []
    made.metadata[EMPTY]["content"] = "  "
    made.y[TWIN] = made.y[TWIN - 1]
    made.filters = {"train": [(0, made.trn[0][0])], "test": [(2, made.tst[2][0])]}
    return made


def orcas(folder: Path, labels: int = 60, form: str = "xc", metadata: str = "metadata.jsonl") -> Made:
    """Write the ORCAS shape into `folder` (see `write`), to be read with `points: queries`."""
    made = orcas_made(labels)
    write(folder, made, form, metadata)
    return made


def wiki(folder: Path, points: int = 60, form: str = "xc", metadata: str = "metadata.jsonl") -> Made:
    """Write the WikiHierarchy shape into `folder` (see `write`), to be read with `points: documents`."""
    made = wiki_made(points)
    write(folder, made, form, metadata)
    return made


def write(folder: Path, made: Made, form: str = "xc", metadata: str | None = "metadata.jsonl") -> None:
    """`form`: "xc" (texts, npz), "gz" (texts .gz, text matrices), "dexml", "renee", "json" (trn.json.gz …).

    `metadata` is the file's name; its ending says the kind (.jsonl, .json: an array, .tsv: MS MARCO's
    columns, each also .gz). None writes none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"trn_X": made.trn_x, "tst_X": made.tst_x, "Y": made.y}
    if form == "json":
        _json_lines(folder, made)
    else:
        raw = folder / "raw" if form == "dexml" else folder
        raw.mkdir(exist_ok=True)
        for name, lines in texts.items():
            put(raw / f"{name}.txt{'.gz' if form == 'gz' else ''}", "".join(f"{line}\n" for line in lines))
        for which in ("trn", "tst"):
            if form in ("xc", "dexml"):
                name = f"Y.{which}.npz" if form == "dexml" else f"{which}_X_Y.npz"
                save_npz(folder / name, made.matrix(which))
            else:
                put(folder / f"{which}_X_Y.txt", matrix_text(made.matrix(which)))
    for which, pairs in made.filters.items():
        short = {"train": "trn", "test": "tst"}[which]
        name = f"{short}_filter_labels.txt" if form == "renee" else f"filter_labels_{which}.txt"
        put(folder / name, "".join(f"{row} {column}\n" for row, column in pairs))
    if metadata:
        put(folder / metadata, _metadata_text(made.metadata, metadata))


def put(path: Path, text: str) -> None:
    """Write UTF-8 text, compressed where the name ends in .gz."""
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def matrix_text(matrix: csr_matrix) -> str:
    """The XC repository's text form: "rows columns", then `label:value …` for each row."""
    lines = [f"{matrix.shape[0]} {matrix.shape[1]}"]
    for row in range(matrix.shape[0]):
        own = slice(matrix.indptr[row], matrix.indptr[row + 1])
        pairs = zip(matrix.indices[own], matrix.data[own], strict=True)
        lines.append(" ".join(f"{column}:{value:.5f}" for column, value in pairs))
    return "\n".join(lines) + "\n"


def _json_lines(folder: Path, made: Made) -> None:
    """`*.json.gz`: content from the metadata where it is the points', else of a label."""
    by_label = "url" in made.metadata[0]
    for name, titles, labels in (("trn", made.trn_x, made.trn), ("tst", made.tst_x, made.tst)):
        rows = [
            {"uid": f"{name}{n}", "title": title, "target_ind": own, "target_rel": [1.0] * len(own)}
            for n, (title, own) in enumerate(zip(titles, labels, strict=True))
        ]
        if not by_label:
            contents = [row["content"] for row in made.metadata] if name == "trn" else [""] * len(rows)
            rows = [{**row, "content": text} for row, text in zip(rows, contents, strict=True)]
        put(folder / f"{name}.json.gz", _jsonl(rows))
    rows = [{"uid": f"lbl{n}", "title": title} for n, title in enumerate(made.y)]
    if by_label:
        rows = [{**row, "content": page["doc_body"]} for row, page in zip(rows, made.metadata, strict=True)]
    put(folder / "lbl.json.gz", _jsonl(rows))


def _metadata_text(rows: list[dict], name: str) -> str:
    if ".tsv" in name:  # docid, url, title, body: no header, as in msmarco-docs.tsv
        return "".join(
            f"D{n}\t{row.get('url', row.get('title'))}\t{row.get('doc_title', row.get('title'))}\t"
            f"{' '.join(row.get('doc_body', row.get('content')).split())}\n"
            for n, row in enumerate(rows)
        )
    if ".jsonl" in name:
        return _jsonl(rows)
    return json.dumps(rows, ensure_ascii=False, indent=4)


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
