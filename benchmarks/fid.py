"""Fusion-in-decoder: does the decoder fuse what the encoder read of passages, and what does reading cost?

A small T5 is made here from scratch, its tokenizer trained on the pages, imported by `base_seq2seq` and
trained by `finetune_fid` to look something up. Each passage is text of a page of API documentation with a
fact planted in it: a key, and words of another page. The question names the key ASKED; the facts of other
passages have keys of OTHERS. Its answer, the words, is in one of four passages, wherever it is; in every
sixth training row in none, so that a model can learn what it does not know. A first training has the
right passage alone, which teaches to copy; from what it made, a second one, with one to four passages,
teaches which one to copy from. Test rows are of held-out pages.

nll        of the answer's tokens, in nats, with the four passages, with the first alone (which holds the fact
           in a quarter of the rows) and with none; the paired differences with 95% intervals over rows.
copied     share of the rows whose greedy answer is the fact, by the place of its passage.
seconds    of the encoder for 2 and 8 passages of LENGTH tokens each, best of ROUNDS in turns, and of the
           same tokens in one text, which is what a decoder-only model reads.

    python -m benchmarks.fid [--corpus data/pydoc/corpus] [--rows 4000] [--epochs 7 2]
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stages.core.processes import leave_idle_cores

ROOT = Path(__file__).resolve().parent.parent
ASKED, OTHERS = "note", "default returns raises since type shape unit".split()
PASSAGES, WORDS, FACT, COMMON, VOCABULARY = 4, 6, 2, 300, 450
SHAPE = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
TEST_ROWS, LENGTH, BATCH, ROUNDS = 200, 192, 4, 7
STUDENT = """{% for passage in document.metadata.passages %}
{{ document.text }} {{ passage.text }}
{% endfor %}
"""


def pages(corpus: Path) -> dict[str, list[list[str]]]:
    """The words of each split's pages, of them the COMMON ones of training pages: most are a token each."""
    from stages.core.files import iter_jsonl
    from stages.core.text import plain_words

    words: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}
    for row in iter_jsonl(corpus / "documents.jsonl"):
        found = [word for word in plain_words(row["text"]) if word.isalpha()]
        words[row["split"]].append([word for word in found if word not in {ASKED, *OTHERS}])
    common = {w for w, _ in Counter(w for page in words["train"] for w in page).most_common(COMMON)}
    for split, texts in words.items():
        kept = [[word for word in page if word in common] for page in texts]
        words[split] = [page for page in kept if len(page) >= WORDS + FACT]
    return words


def write_rows(split: str, texts: list[list[str]], count: int, first: int) -> tuple[list, list, list]:
    """(passages, questions, what is retrieved): four passages a question, each with another key and fact."""
    choose = random.Random(split)
    passages, questions, found = [], [], []
    for number in range(first, first + count):
        keys, names, facts = choose.sample(OTHERS, PASSAGES), [], []
        gold, known = choose.randrange(PASSAGES), split != "train" or number % 6 > 0
        if known:
            keys[gold] = ASKED
        for place, key in enumerate(keys):
            text, other = choose.choice(texts), choose.choice(texts)
            start = choose.randrange(len(text) - WORDS + 1)
            at, own = choose.randrange(WORDS), text[start : start + WORDS]
            start = choose.randrange(len(other) - FACT + 1)
            facts.append(other[start : start + FACT])
            planted = " ".join([*own[:at], key, ":", *facts[-1], ".", *own[at:]])
            names.append(f"p{number}-{place}")
            passages.append({"id": names[-1], "title": "", "text": planted, "source": split, "seq": place})
        answer = facts[gold] if known else choose.sample(choose.choice(texts), FACT)
        question = {"id": f"q{number}", "question": f"{ASKED} ?", "answer": " ".join(answer)}
        questions.append({**question, "gold": [names[gold]], "source": split})
        # training sees one passage to four, so that no number of them is strange to it
        kept = names if split != "train" else names[: choose.choice([1, 2, 4, 4])]
        found.append({"id": question["id"], "passages": kept, "scores": []})
    whole = {"start": 0, "end": 0}
    return [{**passage, **whole} for passage in passages], questions, found


def make_dataset(name: str, words: dict[str, list[list[str]]], rows: int) -> None:
    from stages.core import layout
    from stages.core.files import write_jsonl, write_manifest, write_text
    from stages.kinds.rag import places

    passages, first = [], 0
    places.passages(name).mkdir(parents=True)
    for split, count in {"train": rows, "val": TEST_ROWS // 2, "test": TEST_ROWS}.items():
        made, questions, found = write_rows(split, words[split], count, first)
        passages, first = [*passages, *made], first + count
        write_jsonl(places.passages(name) / f"{split}.jsonl", questions)
        write_jsonl(places.retrieved(name) / f"{split}.jsonl", found)
    write_jsonl(places.passages(name) / "passages.jsonl", passages)
    write_manifest(places.passages(name), "benchmark", {})
    write_text(layout.prompt(name, "student"), STUDENT)


def make_base(words: list[list[str]]) -> None:
    """models/base/one: a T5 with random weights, and a tokenizer of the training pages."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    from stages.base_seq2seq import run
    from stages.knobs import BaseSeq2seqKnobs

    core = Tokenizer(models.Unigram())
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    core.pre_tokenizer = pre_tokenizers.Sequence(parts)
    special = {"special_tokens": ["<pad>", "</s>", "<unk>"], "unk_token": "<unk>"}
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, show_progress=False, **special)
    core.train_from_iterator(
        [" ".join([ASKED, *OTHERS, ": . ?"]), *(" ".join(own) for own in words[:3000])], trainer
    )
    vocabulary = [tuple(entry) for entry in json.loads(core.to_str())["model"]["vocab"]]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained("source")
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=VOCABULARY,
        feed_forward_proj="gated-gelu",
        dropout_rate=0,
        decoder_start_token_id=0,
        **SHAPE,
    )
    T5ForConditionalGeneration(config).save_pretrained("source")
    run("one", BaseSeq2seqKnobs(path="source"))


def losses(fid, questions: Sequence[dict], passages: Sequence[Sequence[dict]]) -> list[float]:
    """Mean -log p of the answer's tokens of each question."""
    import torch

    from stages.student.fusion import summed_loss

    found = []
    with torch.inference_mode():
        for question, own in zip(questions, passages, strict=True):
            row = fid.reading.row(question, own)
            found.append(summed_loss(fid.model, [row]).item() / len(row.answer))
    return found


def fusion() -> dict:
    """What the trained model makes of held-out rows."""
    from stages.core import layout
    from stages.core.prompts import Template
    from stages.evaluation.bootstrap import intervals
    from stages.kinds.rag.parts.fid import Fid
    from stages.kinds.rag.parts.rows import read_found, read_passages, read_questions

    fid = Fid(layout.model("four", "fid"), Template(layout.prompt("four", "student")))
    passages, retrieved = read_passages("four"), read_found("four", "test")
    questions = read_questions("four", "test")
    four = [[passages[name] for name in retrieved[question["id"]]["passages"]] for question in questions]
    blank = {**four[0][0], "text": ""}
    sets = {"four": four, "one": [own[:1] for own in four], "none": [[blank] for _ in four]}
    nll = {name: losses(fid, questions, given) for name, given in sets.items()}
    pairs = {"one-four": ("one", "four"), "none-one": ("none", "one")}
    rows = [[a - b for a, b in ((nll[x][n], nll[y][n]) for x, y in pairs.values())] for n in range(len(four))]
    asked = [fid.reading.asked(*pair) for pair in zip(questions, four, strict=True)]
    said = fid.answered([fid.reading.ids(own) for own in asked], 16)
    right: dict[int, list[bool]] = {place: [] for place in range(PASSAGES)}
    for question, own, answer in zip(questions, four, said, strict=True):
        place = [passage["id"] for passage in own].index(question["gold"][0])
        right[place].append(answer.text == question["answer"])
    return {
        "nll": {name: round(sum(values) / len(values), 3) for name, values in nll.items()},
        "differences": dict(zip(pairs, intervals(rows, 1000, 1), strict=True)),
        "copied": {f"passage {place + 1}": round(sum(own) / len(own), 3) for place, own in right.items()},
        "rows": len(questions),
    }


def encoder_seconds() -> dict:
    """Of the same number of questions with 2 and with 8 passages, apart and in one text."""
    import torch

    from stages.student.formats.seq2seq import open_seq2seq
    from stages.student.fusion import fused

    model = open_seq2seq(Path("models/four/fid"))
    shapes = {"2": (2, LENGTH), "8": (8, LENGTH), "2 in one": (1, 2 * LENGTH), "8 in one": (1, 8 * LENGTH)}
    seconds: dict[str, list[float]] = {name: [] for name in shapes}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, shape in shapes.items():
                ids = torch.randint(3, VOCABULARY, (BATCH, *shape))
                began = time.perf_counter()
                fused(model, ids, torch.ones_like(ids, dtype=torch.bool))
                seconds[name].append(time.perf_counter() - began)
    best = {name: min(each) for name, each in seconds.items()}
    ratios = {"8 to 2": best["8"] / best["2"], "8 to 2 in one": best["8 in one"] / best["2 in one"]}
    return {
        "seconds": {name: round(value, 4) for name, value in best.items()},
        "encoder": {name: round(value, 2) for name, value in ratios.items()},
    }


def trained(name: str, epochs: int, **changes) -> dict:
    """Train models/NAME/fid from models/base/NAME; returns its figures."""
    from stages.kinds.rag.finetune_fid import run
    from stages.kinds.rag.knobs import FinetuneFidKnobs

    size = {"passage_length": 64, "answer_length": 32, "batch_size": 32, "micro_batch_size": 32}
    knobs = {**size, "epochs": epochs, "lr": 3e-3, "eval_interval": 250, "save_interval": 10**6, **changes}
    began, cpu = time.perf_counter(), time.process_time()
    figures, timings = run(name, FinetuneFidKnobs.model_validate({"base": name, **knobs}))
    spent = {"s": round(time.perf_counter() - began), "cpu_s": round(time.process_time() - cpu)}
    curve = json.loads(Path(f"reports/{name}/figures/fid_curve.json").read_text("utf-8"))
    return {**figures, **timings, **spent, "val": [row["val_loss"] for row in curve if "val_loss" in row]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=ROOT / "data/pydoc/corpus")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, nargs=2, default=(7, 2), help="of the two trainings")
    given = parser.parse_args()
    leave_idle_cores()
    words = pages(given.corpus.resolve())
    from stages.base_seq2seq import run
    from stages.knobs import BaseSeq2seqKnobs

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("one", "four"):
            make_dataset(name, words, given.rows)
        make_base(words["train"])
        training = {"one": trained("one", given.epochs[0], retrieve=1)}
        run("four", BaseSeq2seqKnobs(path="models/one/fid"))
        training["four"] = trained("four", given.epochs[1], retrieve=PASSAGES, lr=2e-3)
        found = {**fusion(), **encoder_seconds(), "training": training}
        os.chdir(ROOT)
    print(json.dumps({"benchmark": "fid", **found}))


if __name__ == "__main__":
    main()
