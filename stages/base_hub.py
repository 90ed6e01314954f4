"""A base model from the Hugging Face hub.

Downloads `id` at the commit `revision` (weights, config, tokenizer; never code) into the hub's own cache and
writes models/base/NAME, as the base stage does. Promises the same bytes for the same revision.
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from requests.exceptions import ConnectionError as NoConnection

from stages.base import import_model
from stages.core.errors import UserError
from stages.knobs import BaseHubKnobs
from stages.student.formats.card import CARD
from stages.student.formats.hf_folder import COMPANIONS, INDEX, WEIGHT_SHARDS, WEIGHTS


def run(dataset: str, knobs: BaseHubKnobs) -> dict:
    provenance = {"hub_id": knobs.id, "revision": knobs.revision}
    found = import_model(download(dataset, knobs), dataset, "base_hub", provenance, knobs.chat)
    return {**found, "revision": knobs.revision}


def download(name: str, knobs: BaseHubKnobs, stage: str = "base_hub") -> Path:
    """The snapshot's directory in the hub cache. Raises UserError that names the stage."""
    if not re.fullmatch(r"[0-9a-f]{40}", knobs.revision):
        raise UserError(
            f"params.yaml, {stage}.{name}.revision: {knobs.revision!r} is not a commit hash; "
            "copy it from the model page (Files, then the commit)"
        )

    patterns = ["config.json", CARD, *COMPANIONS, WEIGHTS, WEIGHT_SHARDS, WEIGHTS + INDEX]
    try:
        found = snapshot_download(knobs.id, revision=knobs.revision, allow_patterns=patterns)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, NoConnection, ConnectionError):
        raise UserError(
            f"{stage}.{name}: {knobs.id}@{knobs.revision[:8]} is not in the local cache and the hub cannot "
            "be reached; go online once, or use `base` with a local directory"
        ) from None
    except (HfHubHTTPError, ValueError) as error:
        raise UserError(f"{stage}.{name}: {knobs.id}: {str(error).strip().splitlines()[-1]}") from None
    return Path(found)
