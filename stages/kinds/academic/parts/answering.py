"""What models are asked: questions of the benchmark with the chunks found for them, and rows held out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, read_json, verify_manifest
from stages.core.hashing import stable_integer
from stages.core.prompts import Template, render
from stages.core.records import Document, TrainingRow
from stages.core.text import clip_words, count_words
from stages.core.tokenizer import TextCodec
from stages.engines.asked import alone, together
from stages.engines.load import check_model, context_of, open_engine, prepare
from stages.engines.protocol import Decoding, Generation
from stages.evaluation.unanswered import says_not
from stages.kinds.academic import places
from stages.kinds.academic.knobs import BenchmarkKnobs
from stages.kinds.academic.parts.rows import Answer, Question, Time
from stages.retrieval.fitting import fitted
from stages.retrieval.knobs import is_none
from stages.retrieval.passages import Passage
from stages.retrieval.retriever import Retriever

UNTRAINED, TRAINED, BESIDE = "untrained", "trained", "beside"
FIRST_WORDS, REFERENCE = "first_words", "reference"
MODELS = (UNTRAINED, TRAINED, BESIDE, FIRST_WORDS, REFERENCE)  # in the order that they are shown in


class Case(NamedTuple):
    """A question with the chunks found for it, best first; or a row held out, with its whole prompt."""

    question: Question
    chunks: Sequence[Passage]
    prompt: str = ""

    @property
    def order(self) -> int:
        """What cases are chosen by: also the seed of an answer, where a temperature asks for one."""
        return stable_integer("benchmark", self.question["id"]) >> 1


def read_chunks(dataset: str) -> dict[str, Passage]:
    """The chunks of a dataset by id. Raises UserError."""
    verify_manifest(places.chunks(dataset))
    fields = tuple(Passage.__annotations__)
    return {row["id"]: row for row in iter_jsonl(places.chunks(dataset) / "chunks.jsonl", fields)}


def read_questions(dataset: str) -> list[Question]:
    """The questions of the benchmark. Raises UserError where there are none."""
    path = places.chunks(dataset) / "questions.jsonl"
    if questions := list(iter_jsonl(path, tuple(Question.__annotations__))):
        return questions
    raise UserError(f"{path}: no question; add some to the file of questions of the block chunks")


def read_training(dataset: str, split: str) -> list[TrainingRow]:
    """The rows of a split. Raises UserError."""
    verify_manifest(layout.litgpt_data(dataset))
    return read_json(layout.litgpt_data(dataset) / f"{split}.json")


def held_out(dataset: str, codec: TextCodec, knobs: BenchmarkKnobs) -> tuple[list[Case], int]:
    """(the first `held_out` rows by hash, how many were left out because their prompts are too long)."""
    room = knobs.prompt_length - knobs.max_new_tokens
    rows = read_training(dataset, "test") if knobs.held_out else []
    cases = sorted(
        (Case(held_out_question(row), (), row["instruction"]) for row in rows), key=lambda case: case.order
    )
    lengths = map(len, codec.prompts([case.prompt for case in cases]))
    fitting = [case for case, length in zip(cases, lengths, strict=True) if length <= room]
    return fitting[: knobs.held_out], len(cases) - len(fitting)


def held_out_question(row: TrainingRow) -> Question:
    """A row as a question. Its id begins with the paper, up to `#`, as those of `corpus_papers` do."""
    return Question(
        id=row["id"],
        question=row["instruction"],
        answer=row["output"],
        source=row["id"].partition("#")[0],
        answerable=not says_not(row["output"]),
        context="",
        extra={},
    )


def retrieved(
    questions: Sequence[Question], chunks: Mapping[str, Passage], knobs: BenchmarkKnobs
) -> list[Case]:
    """Each question with the best `retrieve` chunks; without any where it brings its text.

    Raises UserError for more chunks of a prompt than there are.
    """
    if knobs.retrieve > len(chunks):
        raise UserError(
            f"params.yaml, benchmark: retrieve is {knobs.retrieve}, and there are {len(chunks)} chunks; "
            "lower retrieve, or chunk in the block chunks"
        )
    found = Retriever(chunks, knobs).find([row["question"] for row in questions], knobs.retrieve)
    return [
        Case(row, () if row["context"] else [chunks[name] for name in names])
        for row, (names, _) in zip(questions, found, strict=True)
    ]


def models_of(knobs: BenchmarkKnobs) -> dict[str, Path]:
    """The directory of each model. Raises UserError for one that is not as it was made."""
    models = {UNTRAINED: layout.base_model(knobs.base), TRAINED: Path(knobs.trained)}
    if not is_none(knobs.beside, BESIDE):
        models[BESIDE] = Path(knobs.beside)
    for directory in models.values():
        check_model(directory)
    return models


class Model:
    """A model that is asked with the prompts that students of a dataset learn from, in its own tokens."""

    def __init__(
        self, name: str, directory: Path, template: Template, knobs: BenchmarkKnobs, decoding: Decoding
    ):
        self.name, self.directory, self.template, self.decoding = name, directory, template, decoding
        self.codec = TextCodec(directory)
        self.room = knobs.prompt_length - decoding.max_new_tokens
        if decoding.engine != "openai" and knobs.prompt_length > (context := context_of(directory)):
            raise UserError(
                f"{directory}: its context is {context} tokens; prompt and answer may have "
                f"{knobs.prompt_length}: lower prompt_length in the block benchmark"
            )
        prepare(directory, decoding)

    def answers(self, cases: Sequence[Case]) -> tuple[list[Answer], dict]:
        """(the answers in the order of the cases, what there is to count)."""
        prompts = [self.prompt(case) for case in cases]
        engine = open_engine(self.directory, self.decoding)
        made = together(engine, [text for text, _ in prompts], self.decoding, [case.order for case in cases])
        rows = [answer_of(self.name, *of) for of in zip(cases, prompts, made, strict=True)]
        counts = {
            "answers": len(rows),
            "empty": sum(not row["answer"] for row in rows),
            "stop_share": round(sum(row["finish_reason"] == "stop" for row in rows) / len(rows), 4),
            "tokens": sum(row["tokens"] for row in rows),
            "chunks_dropped": sum(len(case.chunks) for case in cases)
            - sum(len(row["chunks"]) for row in rows),
        }
        return rows, counts

    def times(self, cases: Sequence[Case]) -> list[Time]:
        """How long each of the cases takes, asked alone after a warm-up."""
        single = self.decoding.model_copy(update={"batch_size": 1})
        prompts, orders = [self.prompt(case)[0] for case in cases], [case.order for case in cases]
        timed = alone(open_engine(self.directory, single), prompts, single, orders) if cases else []
        ids = [case.question["id"] for case in cases]
        return [
            Time(id=name, model=self.name, milliseconds=ms) for name, (_, ms) in zip(ids, timed, strict=True)
        ]

    def prompt(self, case: Case) -> tuple[str, list[str]]:
        """(the prompt, the ids of the chunks in it). Nothing of the question is cut: chunks give way.

        No text of people's is a special token, whether or not the model has a chat template. Raises UserError
        where the question alone is too long.
        """
        if case.prompt:
            return case.prompt, []
        question, plain = case.question, self.codec.disarmed
        texts = [question["context"]] if question["context"] else [chunk["text"] for chunk in case.chunks]

        def rendered(shown: list[str]) -> str:
            return render(self.template, document_of(question, "\n\n".join(shown), plain))

        prompt, kept, over = fitted(self.codec, texts, self.room, rendered)
        if over > 0:
            raise UserError(
                f"question {question['id']!r}: without any text its prompt is {over} tokens too long; raise "
                "prompt_length in the block benchmark, or shorten the question"
            )
        return prompt, [chunk["id"] for chunk in case.chunks[: len(kept)]]


def document_of(question: Question, text: str, plain: Callable[[str], str]) -> Document:
    """What a student's prompt is made of, at training as here: the text to answer from, and the question."""
    metadata = {"question": plain(question["question"])}
    return {"id": question["id"], "title": "", "text": plain(text), "metadata": metadata, "split": ""}


def answer_of(model: str, case: Case, prompt: tuple[str, list[str]], made: Generation) -> Answer:
    return Answer(
        id=case.question["id"],
        model=model,
        kind="held_out" if case.prompt else "benchmark",
        answer=made.text.strip(),
        chunks=prompt[1],
        tokens=made.generated_tokens,
        finish_reason=made.finish_reason,
    )


def said(model: str, question: Question, text: str, chunks: Sequence[str] = ()) -> Answer:
    """An answer to a question of the benchmark that none of our engines gave."""
    return Answer(
        id=question["id"],
        model=model,
        kind="benchmark",
        answer=text.strip(),
        chunks=list(chunks),
        tokens=0,
        finish_reason="",
    )


def first_words(dataset: str, cases: Sequence[Case]) -> list[Answer]:
    """The beginning of the best chunk, of as many words as half of the answers of training have at most."""
    words = int(median(count_words(row["output"]) for row in read_training(dataset, "train")))
    texts = [case.question["context"] or "".join(one["text"] for one in case.chunks[:1]) for case in cases]
    return [
        said(FIRST_WORDS, case.question, clip_words(text, words), [one["id"] for one in case.chunks[:1]])
        for case, text in zip(cases, texts, strict=True)
    ]
