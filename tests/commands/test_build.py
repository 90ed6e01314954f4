"""What `make <dataset>` builds before the dataset's own stages."""

from stages.commands.build import bases_of
from stages.params import STAGES


def test_bases_and_encoders_of_a_dataset_alone_are_made():
    blocks = {name: {} for name in STAGES} | {
        "tokenize": {"d": {"base": "smol"}, "other": {"base": "big"}},
        "map": {"d": {"encoder": "models/base/minilm"}, "other": {"encoder": "models/base/large"}},
        "xc": {"d": {"tower": "models/shipped/tfidf", "models": ["plt"]}},
    }
    assert bases_of("d", [], blocks) == {"smol", "minilm"}
