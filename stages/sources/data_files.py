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
            raise UserError(f"{file}: cannot read this kind of file; save it as one of {', '.join(READERS)}")
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
            for batch in table.iter_batches(batch_size=AT_ONCE):
                size += batch.nbytes
                check_expansion(file, size)
                for row in batch.to_pylist():
                    number += 1
                    _check_numbers(f"{file}, row {number}", row)
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{file}, after row {number}: not a whole Parquet file ({reason(error)})") from None


def _check_numbers(where: str, row: dict) -> None:
    """Raise UserError for NaN and infinity, which no file of the corpus can hold."""
    for name, value in row.items():
        try:
            json.dumps(value, default=str, allow_nan=False)
        except ValueError:
            raise UserError(f"{where}: field '{name}' holds NaN or infinity; write null instead") from None


READERS = {
    **dict.fromkeys((".jsonl", ".json"), records),
    ".parquet": _parquet,
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".jsonl.gz", ".json.gz"), records),
}
