"""ORCAS and WikiHierarchy, made small: from their files to the gain, in a real project."""

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy.sparse import load_npz

from stages import params
from stages.core.files import read_json, read_text
from tests.helpers.workspace import ROOT, Workspace, ran
from tests.helpers.xc_fixture import orcas, wiki

pytestmark = pytest.mark.slow
MAKERS = {"orcas": orcas, "wikihierarchy": wiki}
SMALL = {  # instead of a 7B model, GPT-4 and a million rows
    "corpus_xc": {
        "tokenizer": "models/base/smol",
        "max_tokens": 80,
        "val_share": 0.1,
        "test_share": 0.1,
        "hidden_pairs": 0.2,
    },
    "prompt": {"model": "embedded-rules-1", "documents": 40, "val_documents": 4, "test_documents": 6},
    "collect": {"base_url": "embedded", "max_dollars": None},
    "tokenize": {"max_length": 512},
    "finetune": {"batch_size": 8, "micro_batch_size": 8, "epochs": 1, "lr": 0.002, "warmup_steps": 2},
    "export": {"parity_tolerance": 0.01},
    "generate": {"engine": "openvino", "shards": 2, "max_new_tokens": 48, "temperature": 0.3},
    "baseline": {"engine": "openvino", "shards": 2, "max_new_tokens": 16, "temperature": 0.3},
    "map": {"encoder": "models/shipped/tfidf", "dims": 32, "max_length": None},
    "xc": {"bootstrap": 50, "steps": 5},
    "evaluate": {"bootstrap": 20, "among": 0},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Workspace:
    made = Workspace.create(tmp_path_factory.mktemp("skim") / "project", "embedded")
    blocks = {stage: {} for stage in params.STAGES} | {"base_package": made.use_packages("smol")}
    for dataset in MAKERS:
        own = YAML(typ="safe").load(ROOT / "prompts" / dataset / "params.yaml")
        for stage in own:
            knobs = own[stage][dataset] | SMALL.get(stage, {})
            if "base" in knobs:
                knobs["base"] = "smol"
            blocks[stage][dataset] = {key: value for key, value in knobs.items() if value is not None}
        blocks["finetune"][dataset]["precision"] = "bf16-mixed"
    made.write_params(blocks)
    return made


@pytest.mark.parametrize("dataset", list(MAKERS))
def test_from_the_files_to_the_gain(project, dataset):
    folder = project.directory
    source = MAKERS[dataset](folder / "data/sources" / dataset)
    output = project.run("stages", "build", dataset)
    chain = project.chain(dataset)
    assert [name for name in ran(output) if name.endswith(f"@{dataset}")] == [f"{s}@{dataset}" for s in chain]

    packed, reports = folder / "data" / dataset / "xc", folder / "reports" / dataset / "figures"
    original, augmented = (load_npz(packed / f"trn_X_Y{end}.npz") for end in ("", "_skim"))
    known = source.matrix("trn")
    hidden = (known > 0).astype(int) - (original > 0).astype(int)
    assert original.shape == known.shape and hidden.min() == 0 and 0 < hidden.sum() < known.nnz / 2
    # synthetic queries are points of their own
    assert (augmented.shape[0] > original.shape[0]) == (dataset == "orcas")
    augmented = augmented[: original.shape[0]]
    new = augmented - original
    assert new.nnz > 10 and new.data.min() >= 0.8 and np.all(augmented[original.nonzero()] == 1)
    assert read_text(packed / "Y.txt").splitlines() == [" ".join(line.split()) for line in source.y]
    mapped = read_json(reports / "map.json")
    assert mapped["pairs_added"] == new.nnz and mapped["hidden"]["pairs"] == hidden.sum()
    for model in ("plt", "two_tower"):
        figures = read_json(reports / "xc.json")[model]
        assert figures["original"]["R@10"] > 0 and set(figures["difference"]["R@10"]) == {
            "mean",
            "low",
            "high",
        }
    assert "What the new labels bring" in read_text(reports.parent / "report.html")
    assert project.repro("--glob", f"*@{dataset}") == []
