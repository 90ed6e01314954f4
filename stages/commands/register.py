"""Make the exported student of a dataset a version of an MLflow model: a pointer, never a copy.

The version's source is models/<dataset>/hf/; its tags say which content that was (the md5 in dvc.lock) and
which commit, so that
`dvc get . models/<dataset>/hf --rev COMMIT` brings it back. The alias moves to the new version.
"""

import click

from stages.core import layout, tracking, versions
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.stage import main


def register(dataset: str, alias: str) -> str:
    """Returns the new version's number. Raises UserError when there is no student that dvc.lock knows."""
    student = layout.model(dataset, "hf").as_posix()
    md5 = versions.locked_hashes().get(student)
    if md5 is None:
        raise UserError(f"{student}: not in dvc.lock; build it first: make {dataset}")
    client = tracking.connect()
    # Only now: mlflow reads the settings that `connect` makes when it is imported.
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(dataset)
    except MlflowException:
        client.create_registered_model(dataset)
    tags = {"dvc.path": student, "dvc.md5": md5, "git.commit": versions.git("rev-parse", "HEAD") or "none"}
    metrics = layout.figures(dataset) / "metrics.json"
    if metrics.is_file():
        figures = tracking.flat(read_json(metrics)["student"])
        tags |= {name: f"{value:.4f}" for name, value in figures.items() if name.endswith(".mean")}
    version = client.create_model_version(dataset, source=student, tags=tags).version
    client.set_registered_model_alias(dataset, alias, version)
    return version


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--alias", default="current", show_default=True)
@main
def cli(dataset: str, alias: str) -> None:
    with tracking.told_in_a_line():
        version = register(dataset, alias)
    print(f"{dataset} version {version}, alias {alias}")
