"""Which texts are tokenised at all: a bound on their tokens that may not be too low."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from stages.kinds.xc.parts.format.documents import Cutter, Metadata
from tests.helpers.tiny import tokenizer_folder
from tests.helpers.workspace import ROOT
from tests.helpers.xc_fixture import orcas_made, put


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def llama_like() -> Tokenizer:
    """BPE over whole texts, spaces as ▁, bytes where characters are unknown: as Llama 2 has it."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=own, show_progress=False)
    words = " ".join(page["doc_body"] for page in orcas_made().metadata).split()
    core.train_from_iterator(words, trainer)
    return core


@pytest.mark.parametrize("name", ["bytes", "llama"])
def test_texts_that_are_not_tokenised_are_short_enough(name):
    folder = Path(tokenizer_folder())
    if name == "llama":
        folder = Path("llama")
        folder.mkdir()
        llama_like().save("llama/tokenizer.json")
        put(folder / "config.json", '{"eos_token_id": 0}')
    cutter = Cutter(folder, 7500, 750)
    pages = [page["doc_body"] for page in orcas_made().metadata]
    texts = [*pages, *(page.read_text("utf-8")[:7000] for page in sorted(ROOT.glob("docs/**/*.md")))]
    texts += ["", " ", "\n\n\t x \n", "漢字 ☕ é" * 50, "a" * 300, "x = [1,2]\n    return\u2028y " * 20]
    texts = [text.strip() for text in texts]  # as documents are
    exact = [len(found) for found in cutter.tokenizer.encode_batch(texts, add_special_tokens=False)]
    most = cutter.most_tokens(texts)
    assert all(bound >= tokens for bound, tokens in zip(most, exact, strict=True))
    assert sum(most) < 3 * sum(exact)  # close enough to be of use


def test_a_header_and_rows_that_lack_a_value(tmp_path):
    (tmp_path / "m.tsv").write_text("url\ttitle\tbody\nhttp://a\tA\tfirst\nhttp://b\tB\tsecond\n")
    pages = list(Metadata(tmp_path / "m.tsv", 100).pages())
    assert [(page.url, page.title, page.body) for page in pages] == [
        ("http://a", "A", "first"),
        ("http://b", "B", "second"),
    ]
    (tmp_path / "m.jsonl").write_text('{"body": "b1"}\n{"title": "T2", "body": "b2"}\n')
    assert [page.title for page in Metadata(tmp_path / "m.jsonl", 100).pages()] == [None, "T2"]
