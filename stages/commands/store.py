"""Show the answer store and check it.

What data/teacher/store.sqlite holds, what it cost, and whether all of it is as it was written; exit code 2
where it is not. With --salvage, damaged rows are removed, after a copy of the file was made beside it; where
sqlite cannot read the file itself, what it can read is copied to a new one beside it. With --disown, an
answer that is wrong counts no longer: the next `collect` asks again.
"""

import json
import re
from pathlib import Path

import click

from stages.core import layout
from stages.core.errors import UserError
from stages.core.messages import printable
from stages.core.stage import main
from stages.teacher.audit import Damage, account, remove, snapshot, verify
from stages.teacher.rescue import Rescued, rescue
from stages.teacher.store.store import Damaged, Store

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
COLUMNS = ("dataset", "mode", "attempts", "answers", "failures", *TOKENS, "dollars", "unknown_cost")


def show(path: Path, as_json: bool) -> None:
    """Print the figures of the store at `path`. Raises UserError where it is damaged."""
    if not path.is_file():
        empty = {"path": str(path), "exists": False}
        print(json.dumps(empty) if as_json else f"{path} does not exist: nothing was asked yet")
        return
    with Store(path) as store, snapshot(store) as connection:
        damage = verify(connection)
        figures = {"path": str(path), "exists": True, **_sizes(path)}
        if not damage.file:
            figures |= account(connection)
    whole = {**figures, "damage": damage.as_dict()}
    print(json.dumps(whole, indent=2) if as_json else printable(as_text(figures, damage)))
    if damage:
        raise UserError(damage.message(path))


def _sizes(path: Path) -> dict:
    wal = path.with_name(path.name + "-wal")
    return {"bytes": path.stat().st_size, "wal_bytes": wal.stat().st_size if wal.exists() else 0}


def as_text(figures: dict, damage: Damage) -> str:
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
    if figures["disowned"]:
        what += f", of which {figures['disowned']:,} are disowned"
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
    text = f"counted against the cap of {cap['dataset']}: ${cap['committed']:,.4f}"
    if cap["in_batches"]:
        text += f"; ${cap['in_batches']:,.4f} of it is set aside for open batches"
    if cap["other"] > 0:
        text += (
            f"; ${cap['other']:,.4f} of it is no known cost: held by runs that still go or were killed, "
            "or for attempts of unknown cost"
        )
    return text


def _sum(total: dict) -> str:
    unknown = total["unknown_cost"]
    return f"${total['dollars']:,.4f}" + (f", and {unknown:,} attempts of unknown cost" if unknown else "")


def _batches(figures: dict) -> list[str]:
    return [
        f"open batch {batch['batch']} of {batch['dataset']}: {batch['rows']:,} rows, {batch['state']}, "
        f"since {batch['intended_at']}"
        for batch in figures["open_batches"]
    ] or ["open batches: none"]


def repair(path: Path) -> None:
    """Remove damaged rows from the store at `path`, after a copy of the file, and say what was removed.

    Where the file itself is damaged, it stays, and what can be read is copied.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: there is nothing to salvage")
    try:
        with Store(path) as store:
            with snapshot(store) as connection:
                damage = verify(connection)
            if damage.file:
                raise Damaged
            copy = remove(store, damage) if damage else None
    except Damaged:
        print(_how_to_go_on(path, rescue(path)))
        return
    if not damage:
        print(f"{path}: nothing is damaged")
        return
    counts = f"{len(damage.attempts):,} damaged attempts and {len(damage.requests):,} damaged requests"
    print(f"{path}: removed {counts}; {copy} is the file as it was")


def _how_to_go_on(path: Path, rescued: Rescued) -> str:
    kept = ", ".join(f"{count:,} {table}" for table, count in rescued.rows.items())
    least = "at least " if rescued.broken else ""
    lines = [
        f"{rescued.path} has what could be read of {path}: {kept}",
        f"lost: {least}{rescued.lost:,} attempts",
    ]
    if rescued.broken:
        lines += [f"tables that could not be read in full: {', '.join(sorted(rescued.broken))}"]
    if rescued.batches:
        lines += [
            f"open batches of which requests are lost: {', '.join(rescued.batches)}; give them up once the "
            "file is in place: `python -m stages collect DATASET --forget`"
        ]
    lines += [
        "To put it in place, while nothing uses the store:",
        f"  mv {path} {path}.damaged && rm -f {path}-wal {path}-shm && mv {rescued.path} {path}",
        "`collect` then takes over what responses.jsonl has of the lost answers, and asks again for the rest",
    ]
    return "\n".join(lines)


def give_up(path: Path, name: str) -> None:
    """Let an answer in the store at `path` count no longer; `name` as for `Store.disown`."""
    if not re.fullmatch(r"[0-9a-f]{64}|\d{1,18}", name):
        raise UserError(
            f"--disown {name}: expected the question_key of a row of responses.jsonl (64 characters), its "
            "request_key, or the number of an attempt in the store"
        )
    with Store(path) as store:
        count = store.disown(name)
    if not count:
        raise UserError(f"{path}: no answer that counts is of {name}; was it disowned before?")
    print(
        f"{path}: answers disowned: {count:,}; what they cost stays spent. To ask again: "
        "`dvc repro -f -s collect@DATASET`"
    )


@click.command(help=__doc__)
@click.option("--salvage", "salvaging", is_flag=True, help="remove what is damaged, after a copy of the file")
@click.option("--disown", metavar="KEY", help="the question_key of a row of responses.jsonl; see the guide")
@click.option("--json", "as_json", is_flag=True, help="print the figures as one JSON object")
@main
def cli(salvaging: bool, disown: str | None, as_json: bool) -> None:
    if salvaging:
        repair(layout.STORE)
    elif disown is not None:
        give_up(layout.STORE, disown)
    else:
        show(layout.STORE, as_json)
