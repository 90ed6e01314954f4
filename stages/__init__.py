"""Retort: from documents to a small student of a large language model."""

import sys

if sys.argv[:1] == ["-m"]:  # what sys.argv is while `python -m stages.corpus d` looks for the module
    module = sys.orig_argv[-len(sys.argv)]
    if module.startswith("stages.") and not module.startswith(
        ("stages.core.", "stages.sources.", "stages.__")
    ):
        # It would only define its functions, and say nothing.
        print(f"error: use `python -m stages {module.rpartition('.')[2]}`", file=sys.stderr)
        raise SystemExit(2)
