"""Show the answer store and check it; give its answers to another machine, or take some in.

Run as `python -m stages store` (`make store`): what data/teacher/store.sqlite holds, what it cost, and
whether all of it is as it was written; exit code 2 where it is not. With --export, all of it, or only what
the requests of DATASET need, is written to a file; with --import, what such a file has and the store lacks
is added. What was imported was paid elsewhere: it counts neither as spent here nor against caps.
"""

import json
from pathlib import Path

import click

from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import main

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
COLUMNS = ("dataset", "mode", "attempts", "answers", "failures", *TOKENS, "dollars", "unknown_cost")
UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def show(path: Path, as_json: bool) -> None:
    """Print the figures of the store at `path`. Raises UserError where it is damaged."""
    from stages.teacher.audit.account import account
    from stages.teacher.audit.verify import snapshot, verify
    from stages.teacher.store.store import Store

    if not path.is_file():
        empty = {"path": str(path), "exists": False}
        print(json.dumps(empty) if as_json else f"{path} does not exist: nothing was asked yet")
        return
    with Store(path) as store, snapshot(store) as connection:
        damage = verify(connection)
        figures = {"path": str(path), "exists": True, **_sizes(path)}
        if not damage.file:
            figures |= account(connection)
    print(json.dumps({**figures, "damage": damage.as_dict()}, indent=2) if as_json else told(figures, damage))
    if damage:
        raise UserError(damage.told(path))


def _sizes(path: Path) -> dict:
    wal = path.with_name(path.name + "-wal")
    return {"bytes": path.stat().st_size, "wal_bytes": wal.stat().st_size if wal.exists() else 0}


def told(figures: dict, damage) -> str:
    """The figures as text; those of a file that sqlite cannot read are its sizes only."""
    wal = f", and {_size(figures['wal_bytes'])} in its -wal file" if figures["wal_bytes"] else ""
    lines = [f"{figures['path']}: {_size(figures['bytes'])}{wal}"]
    if not damage.file:
        lines += [_contents(figures), "", *_table(figures["spend"]), "", *_money(figures), *_batches(figures)]
    if not damage:
        lines += ["check: the file is whole, every attempt has its checksum, every request its key"]
    if damage.unchecked:
        lines += [f"       {damage.unchecked:,} attempts from before checksums have none"]
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"


def _contents(figures: dict) -> str:
    what = f"schema version {figures['schema_version']}, {figures['requests']:,} requests, "
    what += f"{figures['attempts']:,} attempts with {figures['answers']:,} answers"
    if figures["taken_over"]:
        what += f" ({figures['taken_over']:,} of them taken over from responses.jsonl)"
    return f"{what}\noldest attempt: {figures['oldest'] or 'none'}, newest: {figures['newest'] or 'none'}"


def _table(spend: list[dict]) -> list[str]:
    """Aligned columns: text to the left, numbers to the right."""
    rows = [[name.replace("_tokens", "").replace("_", " ") for name in COLUMNS]]
    rows += [[_cell(line, name) for name in COLUMNS] for line in spend]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust] * 2 + [str.rjust] * (len(COLUMNS) - 2)
    return [
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _cell(line: dict, name: str) -> str:
    value = line[name]
    if name == "dollars":
        return f"{value:,.4f}"
    if name == "mode" and line["imported"]:
        return f"{value or '-'}, imported"
    return f"{value:,}" if isinstance(value, int) else value or "-"


def _money(figures: dict) -> list[str]:
    lines = [f"spent here: {_sum(figures['spent_here'])}"]
    if any(line["imported"] for line in figures["spend"]):
        lines += [
            f"spent elsewhere, by those whose answers were imported: {_sum(figures['spent_elsewhere'])}"
        ]
    lines += [_cap(cap) for cap in figures["caps"]]
    return lines


def _cap(cap: dict) -> str:
    told = f"counted against the cap of {cap['dataset']}: ${cap['committed']:,.4f}"
    if cap["in_batches"]:
        told += f"; ${cap['in_batches']:,.4f} of it is set aside for open batches"
    if cap["other"] > 0:
        told += (
            f"; ${cap['other']:,.4f} of it is no known cost: held by runs that still go or were killed, "
            "or for attempts whose cost nobody told"
        )
    return told


def _sum(total: dict) -> str:
    unknown = total["unknown_cost"]
    return f"${total['dollars']:,.4f}" + (f", and {unknown:,} attempts of unknown cost" if unknown else "")


def _batches(figures: dict) -> list[str]:
    return [
        f"open batch {batch['batch']} of {batch['dataset']}: {batch['rows']:,} rows, {batch['state']}, "
        f"{_age(batch['age_seconds'])} old"
        for batch in figures["open_batches"]
    ] or ["open batches: none"]


def _age(seconds: int) -> str:
    size, name = next((unit for unit in UNITS if seconds >= 2 * unit[0]), UNITS[-1])
    return f"{seconds // size} {name}"


def export(path: Path, target: Path, dataset: str | None, salvage: bool) -> None:
    from stages.teacher.audit.sharing import export_store
    from stages.teacher.requests import Requests
    from stages.teacher.store.store import Store

    if not path.is_file():
        raise UserError(f"{path} does not exist: there is nothing to export")
    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file to write, such as {target}/answers.jsonl.gz")
    requests = None if dataset is None else Requests(layout.requests(dataset))
    with Store(path) as store:
        counts = export_store(store, target, requests, salvage)
    left_out = f"; {counts['left out']:,} damaged rows were left out" if salvage else ""
    print(f"{target}: {counts['request']:,} requests and {counts['attempt']:,} attempts{left_out}")


def take_in(path: Path, source: Path) -> None:
    from stages.teacher.audit.sharing import import_store
    from stages.teacher.store.store import Store

    with Store(path) as store:
        counts = import_store(store, source)
    print(
        f"{path}: added {counts['request']:,} requests and {counts['attempt']:,} attempts; "
        f"{counts['known']:,} attempts of {source} were here already"
    )


@click.command(help=__doc__)
@click.argument("dataset", required=False)
@click.option("--export", "target", help="write a file (gzip JSONL) for another machine")
@click.option("--import", "source", help="add what such a file has and the store lacks")
@click.option("--salvage", is_flag=True, help="with --export: leave out what is damaged")
@click.option("--json", "as_json", is_flag=True, help="print the figures as one JSON object")
@main
def cli(dataset: str | None, target: str | None, source: str | None, salvage: bool, as_json: bool) -> None:
    if target and source:
        raise UserError("export and import: do one at a time")
    if not target and (dataset or salvage):
        raise UserError("DATASET and salvage belong to an export: make store EXPORT=file DATASET=name")
    if target:
        export(layout.STORE, Path(target), dataset, salvage)
    elif source:
        take_in(layout.STORE, Path(source))
    else:
        show(layout.STORE, as_json)


if __name__ == "__main__":
    cli()
