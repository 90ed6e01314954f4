"""README.md of an exported model: what it is made of, what it is to be asked, and the code that asks it."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from stages.core import layout
from stages.core.chat_template import read_chat_template
from stages.core.files import read_object, read_text, write_text
from stages.core.rows import records

CARD = "README.md"
HEAD, TAIL = 1000, 300  # characters of an example that are shown of a longer one
TITLE = ', extra_body={"title": "its title"}'  # of a request, where the prompt uses it


def write_cards(hf: Path, peft: Path, dataset: str, base: Path, longest: int) -> None:
    """Write the README.md of both exports of a dataset's student, whose answers have up to `longest` tokens.

    Reads the base's provenance and licence, the student prompt and the first training row. Raises UserError
    where a file is missing.
    """
    template = read_text(layout.prompt(dataset, "student"))
    _, row = next(records(layout.litgpt_data(dataset) / "train.json"))
    facts = {
        "dataset": dataset,
        "base": base.as_posix(),
        **provenance(base),
        "license": licence(base),
        "longest": longest,
        "template": template.strip(),
        "chat": read_chat_template(base) is not None,
        "prompt": shortened(row["instruction"]),
        "answer": shortened(row["output"]),
        "title": TITLE if "document.title" in template else "",
    }
    loader = FileSystemLoader(Path(__file__).parent)
    card = Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True).get_template("card.md.j2")
    for directory, part in ((hf, "hf"), (peft, "peft")):
        write_text(directory / CARD, card.render(**facts, part=part))


def provenance(base: Path) -> dict:
    """Where a base comes from, as its stage wrote it: `hub_id`, `revision`, `package`; {} of a folder."""
    file = base / "provenance.json"
    return read_object(file) if file.is_file() else {}


def licence(base: Path) -> str | None:
    """The licence that the base's own card names, as the hub spells it."""
    card = base / CARD
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = header and re.search(r"^license: *[\"']?([\w.-]+)", header[1], re.MULTILINE)
    return found[1] if found else None


def shortened(text: str) -> str:
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n[…]\n{text[-TAIL:]}"
