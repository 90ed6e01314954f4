"""The scratch recipe: a start that copies, rows made of the documents alone, a checkpoint that loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.base_scratch import ScratchKnobs, command
from stages.core.files import atomic_directory, write_jsonl
from stages.core.hashing import sha256_file
from stages.core.tokenizer import TextCodec
from stages.student import scratch

SHIPPED = Path(__file__).parents[2] / "models/shipped/small"
TEXT = "Compute the singular value decomposition of a matrix. The factors are unitary; see numpy.linalg.svd."


def documents(count: int = 12) -> list[dict]:
    return [
        {"title": f"lib.part{i}.solve_{i}", "text": f"{TEXT} Variant {i} sorts rows.", "split": "train"}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return scratch.train_tokenizer([f"{d['title']}\n{d['text']}" for d in documents()], 400)


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer):
    alone = tokenizer.encode("svd").ids
    for text in ("numpy.linalg.svd", "the svd of", "first\nsvd", "f(svd)"):
        ids = tokenizer.encode(text).ids
        assert any(ids[i : i + len(alone)] == alone for i in range(len(ids))), text


def test_decoding_gives_plain_text_back(tokenizer):
    for text in ("numpy.linalg.svd", "how to solve\nnon-unitary (0-1) rows", "the matrix's a/b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_an_untrained_model_copies():
    model = scratch.new_model(2000, 2, 256, 4, 256, seed=3)
    assert scratch.copy_accuracy(model) > 0.8
    plain = scratch.new_model(2000, 2, 256, 4, 256, seed=3)
    plain.apply(plain._init_weights)  # a usual start, for comparison
    assert scratch.copy_accuracy(plain) < 0.05


def test_attention_by_batched_products_equals_litgpt():
    model = scratch.new_model(500, 2, 256, 4, 128, seed=1)
    model.apply(model._init_weights)
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model.lm_head(scratch.hidden_states(model, ids)).float(), model(ids).float()
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.999


def test_spans_stand_in_the_document_and_are_distinct():
    rng = np.random.default_rng(0)
    words = TEXT.split()
    flat = " ".join(word.strip(".,;") for word in words)
    lines = scratch.span_lines(words, rng, 5)
    assert len(lines) >= 3 and len({line.lower() for line in lines}) == len(lines)
    assert all(line in flat and line.split()[0].lower() not in scratch.STOP_ENDS for line in lines)


def test_rows_depend_on_seed_and_step_only(tokenizer):
    rows = scratch.Rows(documents(), tokenizer, 64, 4, 0.75, seed=5)
    again = scratch.Rows(documents(), tokenizer, 64, 4, 0.75, seed=5)
    for step in (3, 0, 17):
        for mine, other in zip(rows(step), again(step), strict=True):
            assert torch.equal(mine, other)
    assert not torch.equal(rows(0)[0], scratch.Rows(documents(), tokenizer, 64, 4, 0.75, seed=6)(0)[0])


def test_held_out_documents_are_not_learned_from():
    mixed = documents(4)
    mixed[1]["split"], mixed[2]["split"] = "test", "val"
    assert [d["title"] for d in scratch.training_documents(mixed)] == [
        "lib.part0.solve_0",
        "lib.part3.solve_3",
    ]


@pytest.mark.slow
def test_the_recipe_run_short_learns_resumes_exactly_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_directory(Path("data/toy/corpus"), "corpus") as target:
        write_jsonl(target / "documents.jsonl", documents(40))
    knobs = ScratchKnobs(
        corpus="toy", vocabulary=400, layers=2, context=128, length=96, batch=4, steps=24, lr=1e-3
    )
    figures = command.run("one", knobs)
    assert figures["loss"] < 5.5  # log(400) is 5.99
    assert figures["parity"]["litgpt_transformers"] < 1e-4

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("models/base/one")
    text = "lib.part3\nqueries:"
    assert (
        AutoTokenizer.from_pretrained("models/base/one")(text).input_ids
        == (TextCodec(Path("models/base/one")).prompts([text])[0])
    )
    assert model.config.tie_word_embeddings

    monkeypatch.setattr(scratch, "SAVE_EVERY", 10)
    before = scratch.Progress.update

    def die(self, *args, **kwargs):
        before(self, *args, **kwargs)
        if self.done == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(scratch.Progress, "update", die)
    with pytest.raises(KeyboardInterrupt):
        command.run("two", knobs)
    monkeypatch.setattr(scratch.Progress, "update", before)
    command.run("two", knobs)
    same = [sha256_file(Path(f"models/base/{name}/model.safetensors")) for name in ("one", "two")]
    assert same[0] == same[1]


def test_the_shipped_base_is_what_its_provenance_says():
    provenance = json.loads((SHIPPED / "provenance.json").read_text())
    assert provenance["weights_sha256"] == sha256_file(SHIPPED / "model.safetensors")
    assert provenance["tokenizer_sha256"] == sha256_file(SHIPPED / "tokenizer.json")
    assert provenance["recipe"] == ScratchKnobs(corpus="pydoc").model_dump()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 25 * 2**20
