"""Retort: from documents to a small student of a large language model."""

import sys

if sys.argv[:1] == ["-m"]:  # what sys.argv is while `python -m stages.corpus d` looks for the module
    package, *module = sys.orig_argv[-len(sys.argv)].split(".")
    # Those of a command only define functions: they would do nothing, and say nothing.
    if package == "stages" and module and module[0] not in ("core", "sources", "__main__"):
        print(f"error: use `python -m stages {module[-1]}`", file=sys.stderr)
        raise SystemExit(2)
