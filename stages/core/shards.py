"""Generated rows as Parquet shards in one directory: a document's shard is a hash of its id."""

import errno
import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.errors import UserError, reason
from stages.core.files import atomic_directory, verify_manifest
from stages.core.hashing import shard_of

BATCH = 1024  # rows of a shard held while all are read side by side


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def _schema(texts: str) -> pa.Schema:
    """The columns of a shard; `texts` names that of the parsed answer, which is the task's to name."""
    return pa.schema(
        [
            ("document_id", pa.string()),
            ("sample", pa.int32()),
            ("text", pa.string()),
            (texts, pa.list_(pa.string())),
            ("finish_reason", pa.string()),
            ("prompt_tokens", pa.int32()),
            ("generated_tokens", pa.int32()),
            ("logprob", pa.float64()),
            ("line_logprobs", pa.list_(pa.float64())),
        ]
    )


def write_shards(directory: Path, parts: Iterable[list[dict]], producer: str, texts: str) -> None:
    """Write the rows of each shard in turn, held one shard at a time, and a manifest.

    `texts` names the column of the parsed answers. Equal rows, equal bytes.
    """
    counts: dict[str, int] = {}
    with atomic_directory(directory, producer, counts) as temporary:
        for shard, part in enumerate(parts):
            counts[shard_name(shard)] = len(part)
            table = pa.Table.from_pylist(sorted(part, key=_key), schema=_schema(texts))
            # Every setting that shapes the bytes is given, so that a changed default cannot change them.
            pq.write_table(
                table,
                temporary / shard_name(shard),
                version="2.6",
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
                row_group_size=1 << 16,
                data_page_version="1.0",
            )


def iter_generated(directory: Path, columns: Sequence[str] = ()) -> Iterator[dict]:
    """The rows of a generated directory in the order of (document_id, sample), without holding them all.

    `columns` are those wanted beside document_id and sample; all of them, if none is named. Raises UserError
    naming the first shard that is missing, torn, edited, duplicated or not in the manifest, holds a document
    of another shard or other than its manifest's number of rows, or repeats a row.
    """
    directory = Path(directory)
    files = verify_manifest(directory)["files"]
    paths = [directory / shard_name(shard) for shard in range(len(files))]
    for path in paths:
        if path.name not in files:
            raise _broken(path, f"missing, one of {len(files)} shards")
    for path in paths:
        _check(path, files[path.name].get("rows"))
    wanted = ["document_id", "sample", *columns] if columns else None
    parts = (_rows(path, shard, len(paths), wanted) for shard, path in enumerate(paths))
    return heapq.merge(*parts, key=_key)


def _check(path: Path, rows: int | None) -> None:
    try:
        with pq.ParquetFile(path) as file:
            schema, found = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, f"not a whole Parquet file ({reason(error)})") from None
    lists = [field.name for field in schema if field.type == pa.list_(pa.string())]
    if len(lists) != 1 or schema != _schema(lists[0]):
        raise _broken(path, f"its columns are {', '.join(schema.names)}, not a shard's")
    if found != rows:
        raise _broken(path, f"{found} rows, its manifest says {rows}")


def _rows(path: Path, shard: int, shards: int, columns: list[str] | None) -> Iterator[dict]:
    """The rows of one shard, in order."""
    last = ("", -1)
    for row in _stored(path, columns):
        name, sample = key = _key(row)
        if name != last[0] and (own := shard_of(name, shards)) != shard:
            why = f"document {name!r} belongs to {shard_name(own)} (a copied, renamed or missing shard)"
            raise _broken(path, why)
        if key <= last:
            raise _broken(path, f"document {name!r}, sample {sample} occurs twice, or in the wrong place")
        yield row
        last = key


def _stored(path: Path, columns: list[str] | None) -> Iterator[dict]:
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH, columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in str(error):
            raise UserError(f"{path}: too many open files: raise the limit (`ulimit -n 8192`)") from None
        raise _broken(path, f"not a whole Parquet file ({reason(error)})") from None


def _key(row: dict) -> tuple[str, int]:
    return row["document_id"], row["sample"]


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}; delete {path.parent} and run `dvc repro` again")
