"""What `git add -A` takes in a clone where everything was built: never an output of DVC."""

import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from tests.helpers.workspace import ROOT

OTHERS = ["mlflow.db", "mlflow.db.lock", "logs/shop-20260101-000000.log", "data/teacher/store.sqlite", ".env"]
OTHERS += ["data/packages/x.whl", "data/.work/generate-shop-0/x.part", "data/sources/shop/documents.csv"]
TAKEN = ["data/sources/shop.dvc", "models/qwen.dvc", "data/shop/.gitignore", "reports/shop/.gitignore"]
TAKEN += ["reports/shop/figures/plots/.gitignore", "models/shipped/own/retriever.json", "dvc.lock"]


def outputs() -> tuple[list[str], list[str]]:
    """(the outputs that DVC keeps, those that it leaves to git), for a dataset `shop` and a base `smol`."""
    kept: list[str] = []
    to_git: list[str] = []
    for stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values():
        entry = stage.get("do", stage)
        for out in (out for part in ("outs", "metrics", "plots") for out in entry.get(part, ())):
            path, settings = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            path = path.replace("models/base/${key}", "models/base/smol").replace("${key}", "shop")
            (kept if settings.get("cache", True) else to_git).append(path)
    return kept, to_git


def test_no_output_of_dvc_is_added_and_all_that_points_to_one_is(tmp_path):
    kept, to_git = outputs()
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    for path in [*kept, *to_git, *OTHERS, *TAKEN]:
        file = (
            tmp_path / path if Path(path).suffix or Path(path).name == ".gitignore" else tmp_path / path / "x"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    command = ["git", "diff", "--cached", "--name-only"]
    added = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert set(added) == {".gitignore", *to_git, *TAKEN}
    assert sorted(to_git) == [
        "reports/shop/figures/academic.json",
        *["reports/shop/figures/metrics.json"] * 2,
        "reports/shop/figures/rag.json",
        "reports/shop/figures/retriever.json",
    ]
