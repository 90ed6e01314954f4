"""Generated rows as Parquet shards in one directory: a document's shard is a hash of its id."""

from pathlib import Path

from stages.support.errors import UserError
from stages.support.files import atomic_directory, verify_manifest
from stages.support.hashing import shard_of


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def _schema():
    import pyarrow as pa

    return pa.schema(
        [
            ("document_id", pa.string()),
            ("sample", pa.int32()),
            ("text", pa.string()),
            ("queries", pa.list_(pa.string())),
            ("finish_reason", pa.string()),
            ("prompt_tokens", pa.int32()),
            ("generated_tokens", pa.int32()),
        ]
    )


def write_generated(directory: Path, rows: list[dict], shards: int, producer: str) -> None:
    """Write `rows` (the columns of the schema) as `shards` files and a manifest; equal rows, equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[list[dict]] = [[] for _ in range(shards)]
    for row in sorted(rows, key=lambda row: (row["document_id"], row["sample"])):
        parts[shard_of(row["document_id"], shards)].append(row)
    counts = {shard_name(shard): len(part) for shard, part in enumerate(parts)}
    with atomic_directory(directory, producer, counts) as temporary:
        for shard, part in enumerate(parts):
            table = pa.Table.from_pylist(part, schema=_schema())
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


def read_generated(directory: Path) -> list[dict]:
    """The rows of a generated directory, sorted by (document_id, sample), `queries` a list.

    Raises UserError naming the first shard that is missing, torn, edited, duplicated or not in the manifest,
    holds a document of another shard or other than its manifest's number of rows, or repeats a row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path(directory)
    files = verify_manifest(directory)["files"]
    redo = f"delete {directory} and run `dvc repro` again"
    for shard in range(len(files)):
        if shard_name(shard) not in files:
            raise UserError(f"{directory / shard_name(shard)}: missing, one of {len(files)} shards; {redo}")
    rows: list[dict] = []
    seen: set[tuple[str, int]] = set()
    for shard in range(len(files)):
        path = directory / shard_name(shard)
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{path}: not a whole Parquet file ({why}); {redo}") from None
        if table.schema != _schema():
            raise UserError(f"{path}: its columns are {', '.join(table.column_names)}, not a shard's; {redo}")
        if table.num_rows != files[path.name].get("rows"):
            raise UserError(
                f"{path}: {table.num_rows} rows, its manifest says {files[path.name].get('rows')}; {redo}"
            )
        for row in table.to_pylist():
            key = (row["document_id"], row["sample"])
            own = shard_of(row["document_id"], len(files))
            if own != shard:
                raise UserError(
                    f"{path}: document {row['document_id']!r} belongs to {shard_name(own)} "
                    f"(a copied, renamed or missing shard); {redo}"
                )
            if key in seen:
                raise UserError(f"{path}: document {key[0]!r}, sample {key[1]} occurs twice; {redo}")
            seen.add(key)
            rows.append(row)
    return sorted(rows, key=lambda row: (row["document_id"], row["sample"]))
