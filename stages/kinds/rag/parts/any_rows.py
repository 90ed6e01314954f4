"""Scoring a dataset's student on the rows of any file: LocalRQA's, or `{question, answer, document_id}`.

Passages are those of the dataset, found by its retriever; those that a row names as gold must be among them.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stages.core.errors import UserError
from stages.core.messages import say
from stages.core.stage import valid
from stages.engines.load import resolve
from stages.kinds.kind import Blocks
from stages.kinds.rag.knobs import AnswerKnobs, EvaluateRagKnobs
from stages.kinds.rag.parts.answering import Asked, models_of, retriever_of
from stages.kinds.rag.parts.context import knobs_of
from stages.kinds.rag.parts.local_rqa import OwnRow, PairRow, one_spaced, question_in, validated
from stages.kinds.rag.parts.questions import holding
from stages.kinds.rag.parts.rows import (
    GOLD,
    RETRIEVED,
    Answer,
    Found,
    Question,
    query_of,
    read_passages,
    read_questions,
)
from stages.kinds.rag.parts.scoring import FIRST_WORDS, NEAREST, QuestionSet, Scores, simple
from stages.kinds.rag.parts.systems import system_of
from stages.retrieval.passages import Passage, by_source
from stages.sources.data_files import rows_of

SHOWN = ("f1", "precision", "recall", "rouge_l", "bleu", "faithfulness", "copied", "stop_rate")


def evaluate_rows(
    dataset: str, file: Path, blocks: Blocks, systems: list[str] | None, ask: Callable | None
) -> dict:
    """Figures as in rag.json of the rows of a file, of all systems or of those named.

    Of `ask` there is no use: no system is a teacher. Raises UserError for a row that cannot be read, or whose
    gold passage the dataset has not.
    """
    answering = valid(AnswerKnobs, blocks["answer"].get(dataset, {}), f"params.yaml, answer.{dataset}")
    stage = "evaluate_rag"
    measuring = valid(EvaluateRagKnobs, blocks[stage].get(dataset, {}), f"params.yaml, {stage}.{dataset}")
    models, passages = models_of(dataset, answering), read_passages(dataset)
    known = [*models, FIRST_WORDS, NEAREST]
    chosen = known if systems is None else systems
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {', '.join(known)}")
    questions = list(questions_of(file, passages))
    if not questions:
        raise UserError(f"{file}: no row; expected LocalRQA's, or {{question, answer, document_id}}")
    retrieve = knobs_of(dataset).retrieve
    retriever = retriever_of(dataset, passages, encoder=answering.encoder, reranker=answering.reranker)
    hits = retriever.find([query_of(row) for row in questions], max(retrieve, *measuring.cutoffs))
    found, asked = {}, []
    for row, (ids, scores) in zip(questions, hits, strict=True):
        found[row["id"]] = Found(id=row["id"], passages=ids, scores=scores)
        asked.append(Asked("test", row, {GOLD: row["gold"], RETRIEVED: ids[:retrieve]}, scores[:retrieve]))
    decoding = resolve(answering)
    answers: list[Answer] = []
    for name in (name for name in models if name in chosen):
        system = system_of(dataset, name, models[name], decoding)
        answers += system.answers(asked, passages)[0]
    of = QuestionSet({row["id"]: row for row in questions}, found, passages)
    answers += simple(of, found, "test", read_questions(dataset, "train"))
    return Scores(of, [row for row in answers if row["system"] in chosen], measuring).figures()


def questions_of(file: Path, passages: Mapping[str, Passage]) -> Iterator[Question]:
    """The rows, all in one of the two forms, with ids of their gold passages, less those without a question.

    Raises UserError for an answer or a gold passage that is missing.
    """
    by_words = {(own["source"], one_spaced(own["text"])): name for name, own in passages.items()}
    of_document = by_source(passages.values())
    model = PairRow if any("gold_docs" in fields for _, fields in rows_of([file])) else OwnRow
    for number, (where, _, row) in enumerate(validated(model, [file]), start=1):
        name, gold = f"row-{number}", dict[str, str | None]()  # by what the row calls it
        if isinstance(row, PairRow):
            source = row.gold_docs[0].source
            gold = {one.text: by_words.get((one.source, one_spaced(one.text))) for one in row.gold_docs}
            asked = question_in(row, where, name, list(filter(None, gold.values())))
        else:
            source, own = row.document_id, of_document.get(row.document_id)
            gold = {source: own and holding(row.gold or row.answer, own)}
            ids = list(filter(None, gold.values()))
            asked = Question(id=name, question=row.question, answer=row.answer, gold=ids, source=source)
        if unknown := [name for name, passage in gold.items() if passage is None]:
            raise UserError(
                f"{where}: the dataset has no passage {unknown[0][:60]!r} (source {source!r}), which is "
                "named as gold; correct the row, or add the document and build the dataset again"
            )
        if asked is None:
            say(f"{where}: has no question, so it is left out")
        else:
            yield asked


def table(scores: dict) -> str:
    """The means of SHOWN, a line for each context and system."""
    lines = []
    for context in (GOLD, RETRIEVED):
        own = {name: figures[context] for name, figures in scores.items() if context in figures}
        count = next((figures["questions"] for figures in own.values()), 0)
        title = f"{context} passages, {count} rows"
        lines += [f"{title:32}" + "".join(f"{measure:>13}" for measure in SHOWN)] if own else []
        for name, figures in own.items():
            means = ("–" if figures[m] is None else f"{figures[m]['mean']:.3f}" for m in SHOWN)
            lines.append(f"{name:32}" + "".join(f"{mean:>13}" for mean in means))
    return "\n".join(lines)
