"""The page of a dataset of skills: as stages/report.py, with the figures that such a dataset has.

Reads `reports/<dataset>/`, the loss curve in `models/<dataset>/adapter/`, dvc.lock and the git commit; writes
`reports/<dataset>/report.html` and `reports/<dataset>/plots/loss.json`.
"""

from stages.core.stage import stage
from stages.report import ReportKnobs, write_page


@stage("report_skills", ReportKnobs, figures="report")
def command(dataset: str, knobs: ReportKnobs) -> dict:
    return write_page(dataset)


if __name__ == "__main__":
    command()
