"""The rows of a `requests.jsonl`, by id, without holding them in memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.records import Request
from stages.teacher.identity import key_of, limit_of, most_output
from stages.teacher.prices import Price, rough_tokens, told
from stages.teacher.resolve import Policy, resolve
from stages.teacher.store.store import Store

FIELDS = ("id", "request_key", "model", "messages", "params", "prompt_hash")


class Requests:
    """Iterates over the rows in the order of their ids, whatever the order in the file.

    Only ids and places in the file are kept, about 150 bytes a row. `first` is a row for checks that one row
    stands for: one without a limit on tokens where there is any. Raises UserError for a bad row.
    """

    def __init__(self, path: Path):
        self.path = path
        places: dict[str, int] = {}
        keys: set[bytes] = set()
        first: Request | None = None
        rows = cast(Iterator[Request], iter_jsonl(path, FIELDS))
        for number, (row, place) in enumerate(zip(rows, _places(path), strict=True), 1):
            _check(row, f"{path}, row {number}")
            if row["id"] in places:
                raise UserError(f"{path}, row {number}: id '{row['id']}' was used before; ids must be unique")
            first = first or row
            if row["model"] != first["model"]:
                raise UserError(
                    f"{path}, row {number}: model '{row['model']}', where row 1 has '{first['model']}'; "
                    "a dataset has one teacher"
                )
            if limit_of(row) is None:
                first = row  # for `check_cap`: without a limit the worst case is unknown
            places[row["id"]] = place
            keys.add(bytes.fromhex(row["request_key"]))
        if first is None:
            raise UserError(f"{path}: no requests; run the prompt stage")
        self.first, self.distinct, self.model = first, len(keys), first["model"]
        self.places = [places[name] for name in sorted(places)]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Request]:
        return self._at(self.places)

    def _at(self, places: list[int]) -> Iterator[Request]:
        with open(self.path, "rb") as stream:
            for place in places:
                stream.seek(place)
                yield json.loads(stream.readline())

    def pending(self, store: Store, policy: Policy, given_up: set[str]) -> list[int]:
        """Places of rows for which something is to be asked: one for each distinct request not `given_up`."""
        seen: set[bytes] = {bytes.fromhex(key) for key in given_up}
        pending = []
        for place, row in zip(self.places, self, strict=True):
            request = resolve(row, store, policy).ask
            if request is not None and (key := bytes.fromhex(request["request_key"])) not in seen:
                seen.add(key)
                pending.append(place)
        return pending

    def asks(self, places: list[int], store: Store, policy: Policy) -> Iterator[tuple[Request, int]]:
        """The requests to send for the rows at `places`, each with the number of bodies stored for it."""
        for row in self._at(places):
            request = resolve(row, store, policy).ask
            if request is not None:  # another process may have asked meanwhile
                yield request, store.knows(request["request_key"])

    def estimate(self, places: list[int], price: Price | None, mode: str = "online") -> str:
        """What asking for the rows at `places` may take, in words."""
        if not places:
            return ""
        tokens_in = tokens_out = 0.0
        for row in self._at(places):
            tokens_in += rough_tokens(row)
            tokens_out += most_output(row)
        return f"; {told(tokens_in, tokens_out, price, self.model, mode == 'batch')}"


def _check(row: Request, where: str) -> None:
    if not isinstance(row["messages"], list) or not isinstance(row["params"], dict):
        raise UserError(f"{where}: expected a list of messages and a mapping of params; run the prompt stage")
    if row["request_key"] != key_of(row):
        raise UserError(f"{where}: request_key does not belong to the request; run the prompt stage")


def _places(path: Path) -> Iterator[int]:
    """The byte offset of each row that is not blank."""
    place = 0
    with open(path, "rb") as stream:
        for raw in stream:
            if raw.strip():
                yield place
            place += len(raw)
