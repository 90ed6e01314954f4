"""Cut documents into passages; the questions about them, and the answers, are a teacher's.

For documents that nobody has asked about. Reads data/<of>/corpus/, the documents; data/<asked>/corpus/ and
responses.jsonl, each a document with `metadata.question` and what the teacher answers it from the text; and
the file `eval_rows`. Writes `data/<dataset>/passages/`: passages.jsonl, the questions
{train,val,test,people}.jsonl, each in the split of its document, and a manifest. What the text does not
answer is left out and counted, and so is what asks or answers as a row of an earlier split does: test, val,
train. Promises the same bytes for the same answers.
"""

from collections import Counter
from collections.abc import Iterator

from stages.core import layout
from stages.core.errors import UserError
from stages.core.records import read_documents
from stages.evaluation.people import one_spelling
from stages.evaluation.unanswered import NOT_SAID
from stages.kinds.answers import answer_of, document_of, is_first, read_responses
from stages.kinds.rag.knobs import PassagesAskedKnobs
from stages.kinds.rag.parts.questions import holding, people_questions, write_passages
from stages.kinds.rag.parts.rows import Question
from stages.kinds.written import ANSWER
from stages.retrieval.passages import Cutter, Piece, by_source

SPLITS = ("test", "val", "train")  # who keeps a question that two ask


def run(dataset: str, knobs: PassagesAskedKnobs) -> dict:
    documents = read_documents(knobs.of)
    passages = Cutter(knobs).passages(Piece(one["id"], one["title"], one["text"]) for one in documents)
    of_document = by_source(passages)
    counts: Counter[str] = Counter()
    rows = sorted(answered(knobs.asked, counts), key=lambda row: SPLITS.index(row[0]))
    questions: dict[str, list[Question]] = {split: [] for split in SPLITS}
    known: set[str] = set()
    for split, row in rows:
        if row["source"] not in of_document:
            raise UserError(
                f"{layout.corpus(knobs.asked)}: '{row['id']}' is about '{row['source']}', no document of "
                f"{layout.corpus(knobs.of)}; is `of` the dataset that questions were asked about?"
            )
        spelt = {one_spelling(text) for text in (row["question"], row["answer"])}
        if known & spelt:
            counts["repeated"] += 1
            continue
        known |= spelt
        row["gold"] = [holding(row["answer"], of_document[row["source"]])]
        questions[split].append(row)
    questions["people"] = people_questions(knobs.eval_rows, of_document)
    return write_passages(dataset, "passages_asked", knobs, passages, questions, counts)


def answered(dataset: str, counts: Counter[str]) -> Iterator[tuple[str, Question]]:
    """(split, question without gold passages) of each usable answer; `counts` tells of the others."""
    task = ANSWER
    documents = {document["id"]: document for document in read_documents(dataset)}
    path = layout.responses(dataset)
    for number, response in enumerate(read_responses(path), start=1):
        document = documents.get(document_of(response))
        question = document and document["metadata"].get("question")
        if document is None or not question:
            raise UserError(
                f"{path}, row {number}: '{document_of(response)}' is no document with a question; is `asked` "
                "a dataset of questions?"
            )
        if not response["accepted"] or not is_first(response) or document["split"] not in SPLITS:
            counts["not_answered"] += 1
            continue
        try:
            answers = task.flat(task.fit(answer_of(response, task), document))
        except ValueError:
            answers = []
        if not answers or answers[0] == NOT_SAID or document["metadata"].get("answerable") is False:
            counts["not_said" if answers else "not_answered"] += 1
            continue
        yield (
            document["split"],
            {
                "id": document["id"],
                "question": question,
                "answer": answers[0],
                "gold": [],
                "source": document["metadata"].get("document_id", document["id"]),
            },
        )
