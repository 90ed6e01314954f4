"""Take a dataset out of dvc.yaml: `dvc repro` leaves it alone from then on. `make new` takes it in again.

Its folder in prompts/, its sources and the answers that were paid for stay. With `--built`, what was built of
it is deleted: its folders in data/, models/ and reports/.
"""

import shutil
from pathlib import Path

import click

from stages import params
from stages.commands.new import PROMPTS, bases_in, restored_on_error
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.names import check_name
from stages.core.stage import main
from stages.kinds.registry import nearest


def remove(dataset: str, built: bool = False) -> list[str]:
    """Take the lines out; returns what was done and what is left, one line each.

    Raises UserError where no such dataset takes part, or another one is built upon it.
    """
    own = PROMPTS / check_name(dataset) / "params.yaml"
    listed = list(params.files())
    if own not in listed:
        others = [path.parent.name for path in listed if path.parent.parent == PROMPTS]
        raise UserError(f"{layout.DVC}, vars: no line {own}{nearest(dataset, others)}")
    names = {name for datasets in params.read(own).values() for name in datasets}
    still_used = {base for path in listed if path != own for base in bases_in(path)}
    bases = [path for path in listed if path.parent.name == "bases" and path.stem not in still_used]
    with restored_on_error(layout.DVC):
        gone = {f"- {path}" for path in (own, *bases)}
        lines = [line for line in read_text(layout.DVC).splitlines() if line.strip() not in gone]
        write_text(layout.DVC, "\n".join(lines) + "\n")
        params.check()
    folders = [Path(place) / name for place in ("data", "models", "reports") for name in sorted(names)]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders if built else ():
        shutil.rmtree(folder)
    done = [f"took out of {layout.DVC}, vars: {', '.join(map(str, (own, *bases)))}"]
    if folders:
        done.append(f"{'deleted' if built else 'left, BUILT=1 deletes it'}: {', '.join(map(str, folders))}")
    return [*done, f"left: {own.parent}, its sources, and the answers in {layout.STORE}"]


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--built", is_flag=True, help="delete what was built of it")
@main
def cli(dataset: str, built: bool) -> None:
    for line in remove(dataset, built):
        print(line)
