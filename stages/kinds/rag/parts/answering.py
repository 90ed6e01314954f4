"""What held-out questions are asked with, and what a system answers: all together, some alone for latency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_object
from stages.core.hashing import stable_integer
from stages.core.stage import valid
from stages.engines.asked import alone, together
from stages.engines.load import check_model, context_of, open_engine, prepare
from stages.engines.protocol import Decoding, Generation
from stages.kinds.rag import places
from stages.kinds.rag.knobs import AnswerKnobs, RetrievedKnobs
from stages.kinds.rag.parts.context import Prompt, Prompts
from stages.kinds.rag.parts.rows import (
    GOLD,
    HELD_OUT,
    RETRIEVED,
    Answer,
    Question,
    Split,
    query_of,
    read_found,
    read_questions,
)
from stages.retrieval.knobs import is_none
from stages.retrieval.passages import Passage
from stages.retrieval.retriever import Retriever

TRAINED, UNTRAINED, BESIDE, FID = "trained", "untrained", "beside", "fid"


class Asked(NamedTuple):
    """A held-out question with the ids of the passages of each context; `scores` are of those retrieved."""

    split: Split
    question: Question
    contexts: dict[str, list[str]]
    scores: list[float]

    @property
    def order(self) -> int:
        """What questions are chosen by: also the seed of an answer, where a temperature asks for one."""
        return stable_integer("answer", self.question["id"]) >> 1


def held_out(dataset: str, passages: Mapping[str, Passage], retrieve: int, limit: int) -> list[Asked]:
    """The questions by their order, `limit` of each set or all; the first `retrieve` passages found for each.

    Raises UserError where there are none, for one that was not looked up, and for a passage that is none.
    """
    chosen = []
    for split in HELD_OUT:
        found, own = read_found(dataset, split), []
        for question in read_questions(dataset, split):
            hits = found.get(question["id"])
            if hits is None:
                raise UserError(
                    f"{places.retrieved(dataset) / split}.jsonl: no row of the question {question['id']!r}; "
                    "run `dvc repro`"
                )
            contexts = {GOLD: question["gold"], RETRIEVED: hits["passages"][:retrieve]}
            for name in (name for names in contexts.values() for name in names if name not in passages):
                raise UserError(
                    f"question {question['id']!r} of {split}: no passage is called {name!r}; run `dvc repro`"
                )
            own.append(Asked(split, question, contexts, hits["scores"][:retrieve]))
        chosen += sorted(own, key=lambda one: one.order)[: limit or None]
    if not chosen:
        raise UserError(f"{places.passages(dataset)}: no held-out question, neither in test nor in people")
    return sorted(chosen, key=lambda one: one.order)


def models_of(dataset: str, knobs: AnswerKnobs) -> dict[str, Path]:
    """The directory of each system's model. Raises UserError for one that is not as it was made."""
    models = {TRAINED: layout.model(dataset, "hf"), UNTRAINED: layout.base_model(knobs.base)}
    for name in (BESIDE, FID):
        directory = getattr(knobs, name)
        if not is_none(directory, name):
            models[name] = Path(directory)
    for model in models.values():
        check_model(model)
    return models


class System:
    """A model that is asked with prompts as the students of a dataset learnt from."""

    def __init__(self, name: str, directory: Path, prompts: Prompts, decoding: Decoding):
        """Raises UserError where the longest prompt and answer do not fit into the model's context."""
        self.name, self.directory, self.prompts, self.decoding = name, directory, prompts, decoding
        longest = prompts.knobs.max_length - prompts.knobs.answer_length + decoding.max_new_tokens
        if longest > (context := context_of(directory)):
            raise UserError(
                f"{directory}: its context is {context} tokens; prompt and answer may have {longest}: lower "
                "max_length in the block convert_rag, or max_new_tokens in answer"
            )
        prepare(directory, decoding)

    def answers(
        self, asked: Sequence[Asked], passages: Mapping[str, Passage]
    ) -> tuple[list[Answer], dict, dict]:
        """(the answers from each context, what there is to count, how long it took)."""
        cases = [(one, context) for one in asked for context in one.contexts]
        given = [(one, [passages[name] for name in one.contexts[context]]) for one, context in cases]
        prompts, made, seconds = self.said(given)
        rows = [
            Answer(
                id=one.question["id"],
                split=one.split,
                system=self.name,
                context=context,
                question=one.question["question"],
                answer=answer.text.strip(),
                passages=prompt.passages,
                scores=one.scores[: len(prompt.passages)] if context == RETRIEVED else [],
                retrieve_ms=None,
                generate_ms=None,
                tokens=answer.generated_tokens,
                finish_reason=answer.finish_reason,
            )
            for (one, context), prompt, answer in zip(cases, prompts, made, strict=True)
        ]
        tokens = sum(row["tokens"] for row in rows)
        counts = {
            "answers": len(rows),
            "empty": sum(not row["answer"] for row in rows),
            "stop_share": round(sum(row["finish_reason"] == "stop" for row in rows) / len(rows), 4),
            "tokens": tokens,
            "passages_cut": sum(prompt.cut for prompt in prompts),
            "passages_dropped": sum(prompt.dropped for prompt in prompts),
        }
        return rows, counts, {"seconds": round(seconds, 2), "tokens_per_second": round(tokens / seconds, 1)}

    def said(
        self, given: Sequence[tuple[Asked, list[Passage]]]
    ) -> tuple[list[Prompt], Sequence[Generation], float]:
        """The prompt of each question with its passages, what is answered, and in how many seconds."""
        prompts = [self.prompts.of(one.question, own) for one, own in given]
        engine = open_engine(self.directory, self.decoding)
        begun = perf_counter()
        texts = [prompt.text for prompt in prompts]
        made = together(engine, texts, self.decoding, [one.order for one, _ in given])
        return prompts, made, perf_counter() - begun

    def times(
        self, asked: Sequence[Asked], passages: Mapping[str, Passage], retriever: Retriever
    ) -> dict[str, tuple[float, float]]:
        """Milliseconds (of retrieving, of answering) by a question's id, each asked alone after a warm-up."""
        single = self.decoding.model_copy(update={"batch_size": 1})
        texts, milliseconds = [], []
        for one in [*asked[:1], *asked]:
            begun = perf_counter()
            retriever.find([query_of(one.question)], self.prompts.knobs.retrieve)
            milliseconds.append(round(1000 * (perf_counter() - begun), 2))
        for one in asked:
            hits = [passages[name] for name in one.contexts[RETRIEVED]]
            texts.append(self.prompts.of(one.question, hits).text)
        engine = open_engine(self.directory, single)
        made = alone(engine, texts, single, [one.order for one in asked])
        ids = [one.question["id"] for one in asked]
        return dict(zip(ids, zip(milliseconds[1:], (ms for _, ms in made), strict=True), strict=True))


def retriever_of(dataset: str, passages: Mapping[str, Passage], **directories: str) -> Retriever:
    """As the stage `retrieved` had it, with `directories` as encoder and reranker. Raises UserError."""
    file = places.retrieved(dataset) / places.RETRIEVER
    return Retriever(passages, valid(RetrievedKnobs, {**read_object(file), **directories}, str(file)))
