"""Where everything lies. Paths are relative to the repository root, from which DVC runs every stage."""

from pathlib import Path

DVC = Path("dvc.yaml")
PARAMS = Path("params.yaml")
STORE = Path("data/teacher/store.sqlite")
SCRATCH = Path("data/.work")
PACKAGES = Path("data/packages")
CODE = Path("data/code")
CODE_STAGE = "code"


def corpus(dataset: str) -> Path:
    return Path("data") / dataset / "corpus"


def price(dataset: str) -> Path:
    """What the model costs that the dataset asks."""
    return Path("data") / dataset / "price.json"


def requests(dataset: str) -> Path:
    return Path("data") / dataset / "requests.jsonl"


def responses(dataset: str) -> Path:
    return Path("data") / dataset / "responses.jsonl"


def litgpt_data(dataset: str) -> Path:
    return Path("data") / dataset / "litgpt"


def tokens(dataset: str) -> Path:
    return Path("data") / dataset / "tokens"


def generated(dataset: str) -> Path:
    return Path("data") / dataset / "generated"


def baseline(dataset: str) -> Path:
    """Generations of the base model, before finetuning, for the held-out documents."""
    return Path("data") / dataset / "baseline"


def base_model(name: str) -> Path:
    return Path("models/base") / name


def model(dataset: str, part: str) -> Path:
    """`part` is one of adapter, merged, hf, peft."""
    return Path("models") / dataset / part


def prompt(dataset: str, role: str) -> Path:
    """`role` is teacher or student."""
    return Path("prompts") / dataset / f"{role}.md"


def reports(dataset: str) -> Path:
    return Path("reports") / dataset


def figures(dataset: str) -> Path:
    """What the stages of a dataset measured: all that its report is made of."""
    return reports(dataset) / "figures"
