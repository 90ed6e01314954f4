"""Rows of the files that people bring: JSON lines, JSON arrays, Parquet, CSV and TSV."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import UserError, reason
from stages.core.files import check_expansion
from stages.core.rows import ending, records
from stages.core.tables import check_names, read_table

# What stands beside data under its name: hidden files, DVC's, editors', downloads that go on.
NO_DATA = re.compile(r"\..*|.*(~|#|\.(dvc|bak|orig|tmp|swp|lock|part|crdownload))", re.IGNORECASE)
AT_ONCE = 64  # rows of Parquet


def data_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match a pattern, sorted, less those that only stand beside data."""
    return sorted(
        file for file in folder.glob(pattern) if file.is_file() and not NO_DATA.fullmatch(file.name)
    )


def rows_of(files: list[Path]) -> Iterator[tuple[str, dict]]:
    """(`<file>, row <number>`, row) of every file; rows count from 1, the header of a CSV is not one.

    Raises UserError for a file that cannot be read, and the first row that is wrong.
    """
    for file in files:
        reader = READERS.get(ending(file))
        if reader is None:
            raise UserError(
                f"{file}: cannot read this kind of file; save it as one of {', '.join(READERS)} (a "
                "spreadsheet as CSV UTF-8)"
            )
        for number, row in reader(file):
            yield f"{file}, row {number}", row


def _table(file: Path) -> Iterator[tuple[int, dict]]:
    return read_table(file)[1]


def _parquet(file: Path) -> Iterator[tuple[int, dict]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number, size = 0, 0
    try:
        with ParquetFile(file) as table:
            check_names(file, table.schema_arrow.names)
            groups = map(table.metadata.row_group, range(table.num_row_groups))
            check_expansion(file, sum(group.total_byte_size for group in groups))
            for batch in table.iter_batches(batch_size=AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    size += _length(f"{file}, row {number}", row)
                    check_expansion(file, size)
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{file}, after row {number}: not a whole Parquet file ({reason(error)})") from None


def _length(where: str, row: dict) -> int:
    """The characters of a row as JSON. Raises UserError for NaN and infinity, which JSON cannot hold."""
    length = 0
    for name, value in row.items():
        try:
            length += len(json.dumps(value, ensure_ascii=False, default=str, allow_nan=False))
        except ValueError:
            raise UserError(f"{where}: field '{name}' holds NaN or infinity; write null instead") from None
    return length


READERS = {
    **dict.fromkeys((".jsonl", ".json"), records),
    ".parquet": _parquet,
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".jsonl.gz", ".json.gz"), records),
}
