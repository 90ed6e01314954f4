"""Score the students of a dataset of skills on the rows of any file: `{user, answer}` or `{input, output}`.

Run as `python -m stages evaluate_rows DATASET --rows FILE --out SCORES`, with models and decoding as in the
block evaluate_calls of params.yaml. Writes one JSON file: measures, figures by skill and confusions of each
system, and what each answered to each row. Rows whose own call breaks the schema are counted and left out.
The embedded teacher is asked, too; another one only on `--teacher`, under the dataset's `max_dollars`, and
what it answers is not kept. docs/kinds/skills/calls.md defines the measures.
"""

import os
import sys
from pathlib import Path

import click

from stages import params
from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import main, valid
from stages.kinds.skills.evaluate_calls import EvaluateCallsKnobs, label

SYSTEMS = ("base", "student", "student_grammar")
SHOWN = """normalised_match_macro normalised_match ast_match valid_call other_recall other_precision
    latency_ms_p50""".split()


def evaluate(dataset: str, file: Path, systems: list[str], teacher: bool) -> dict:
    """The scores as they are written. Raises UserError for rows or models that cannot be read."""
    from stages.kinds.skills.parts.briefs import request_document
    from stages.kinds.skills.parts.files import read_skills
    from stages.kinds.skills.parts.rows import judged, read_rows
    from stages.kinds.skills.parts.runs import run_students

    blocks = params.load()
    knobs = block(blocks, dataset, "evaluate_calls", EvaluateCallsKnobs)
    skills, read = read_skills(layout.skills(dataset)), read_rows(file)
    rows, left_out = judged(read.rows, skills)
    if not rows:
        raise UserError(f"{file}: no row with a call of {dataset}; row 1: {left_out[0]['problem']}")
    documents = [{**request_document(row.user, skills), "id": f"row {row.number}"} for row in rows]
    ran = run_students(dataset, knobs, documents, skills, systems)
    written = {name: ran[name].texts for name in systems}
    times = {name: ran[name].latencies_ms for name in systems}
    if teacher:
        written["teacher"] = ask_teacher(dataset, blocks, documents)
    return {
        "file": file.name,
        "rows": len(read.rows),
        "scored": len(rows),
        "left_out": left_out,
        "lines_skipped": len(read.skipped),
        "systems": {
            name: scores(rows, own, skills, knobs, times.get(name, ())) for name, own in written.items()
        },
        "predictions": [
            {"user": row.user, "gold": row.gold} | {name: own[place] for name, own in written.items()}
            for place, row in enumerate(rows)
        ],
    }


def scores(rows: list, texts: list[str], skills, knobs: EvaluateCallsKnobs, times) -> dict:
    from stages.kinds.skills.parts.scoring import Answered, by_skill, confusion, score

    own = [Answered(row.user, row.gold, text) for row, text in zip(rows, texts, strict=True)]
    measures = score(own, skills, knobs.bootstrap, knobs.seed, times)
    return {**measures, "per_skill": by_skill(own, skills), "confusion": confusion(own, skills)}


def block(blocks: dict, dataset: str, stage: str, knobs: type):
    """The knobs of a stage. Raises UserError where the dataset has none."""
    if dataset not in blocks.get(stage, {}):
        known = params.nearest(dataset, blocks.get(stage, {}))
        raise UserError(f"params.yaml, {stage}: no block for '{dataset}'{known}")
    return valid(knobs, blocks[stage][dataset], f"params.yaml, {stage}.{dataset}")


def ask_teacher(dataset: str, blocks: dict, documents: list[dict]) -> list[str]:
    """Its call for each document, asked as `collect` asks, with a store that is thrown away."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from stages.core.files import write_jsonl
    from stages.core.hashing import sha256_text
    from stages.core.prompts import Template
    from stages.prompt import PromptKnobs, asked_of, requests_for
    from stages.teacher.collecting import ask
    from stages.teacher.knobs import CollectKnobs
    from stages.teacher.money import Budget, check_cap
    from stages.teacher.prices import price_of
    from stages.teacher.projection import Projection
    from stages.teacher.requests import Requests
    from stages.teacher.store.store import Store

    once = {"samples": 1, "n": 1}
    prompting = block(blocks, dataset, "prompt", PromptKnobs).model_copy(update=once)
    knobs = block(blocks, dataset, "collect", CollectKnobs).model_copy(update={"mode": "online"})
    template = Template(Path(prompting.template))
    noted = {"prompt_hash": sha256_text(template.source)}
    with TemporaryDirectory() as folder:
        source, store_file = Path(folder) / "requests.jsonl", Path(folder) / "store.sqlite"
        asked = (requests_for(one["id"], asked_of(template, one), prompting) for one in documents)
        write_jsonl(source, (row | noted for rows in asked for row in rows))
        requests, price = Requests(source), price_of(prompting.model)
        check_cap(knobs.max_dollars, price, requests.first, f"params.yaml, collect.{dataset}")
        with Store(store_file) as store, Budget(store, dataset, price, knobs.max_dollars) as budget:
            say = partial(print, f"evaluate_rows {dataset}:", file=sys.stderr)
            ask(dataset, knobs, requests, store, budget, say)
            found = {
                row["id"]: label(row) for row in Projection(requests, store, knobs.policy(), price).rows()
            }
    return [found[one["id"]] for one in documents]


def check_target(target: Path) -> None:
    """Raises UserError where no file can be written: known before anything runs."""
    if target.is_dir():
        raise UserError(f"--out: {target} is a folder; name a file to write, such as {target}/scores.json")
    folder = next(parent for parent in target.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"--out {target}: {folder} is no folder that can be written to; name another file")


def embedded_teacher(dataset: str) -> bool:
    from stages.teacher.connect import EMBEDDED

    return params.load().get("collect", {}).get(dataset, {}).get("base_url", EMBEDDED) == EMBEDDED


def table(found: dict) -> str:
    lines = [f"{'':24}" + "".join(f"{system:>16}" for system in found["systems"])]
    for name in SHOWN:
        values = (own[name] for own in found["systems"].values())
        means = ("–" if value["mean"] is None else f"{value['mean']:.3f}" for value in values)
        lines.append(f"{name:24}" + "".join(f"{mean:>16}" for mean in means))
    told = f"{found['scored']:,} of {found['rows']:,} rows scored"
    if found["left_out"]:
        first = found["left_out"][0]
        told += f"; row {first['row']} is the first left out: {first['problem']}"
    if found["lines_skipped"]:
        told += f"; {found['lines_skipped']:,} lines are no JSON"
    return "\n".join([*lines, told])


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--rows", required=True, type=click.Path(path_type=Path), help="what to score")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the JSON file to write")
@click.option("--systems", default=",".join(SYSTEMS), show_default=True, help="which, with commas between")
@click.option(
    "--teacher/--no-teacher", default=None, help="ask the teacher [default: if it is the embedded one]"
)
@main
def cli(dataset: str, rows: Path, out: Path, systems: str, teacher: bool | None) -> None:
    from stages.core.files import write_json

    names = [name for name in systems.split(",") if name]
    if not names:
        raise UserError(f"--systems: expected some of {', '.join(SYSTEMS)}")
    if unknown := next((name for name in names if name not in SYSTEMS), None):
        raise UserError(f"--systems: none is called '{unknown}'; there are {', '.join(SYSTEMS)}")
    check_target(out)
    asking = embedded_teacher(dataset) if teacher is None else teacher
    found = evaluate(dataset, rows, names, asking)
    write_json(out, found)
    print(table(found))


if __name__ == "__main__":
    cli()
