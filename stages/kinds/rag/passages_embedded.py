"""Cut the API pages of a dataset into passages, and ask about them what their docstrings answer.

Reads data/<of>/corpus/ of the dataset `of` and the file `eval_rows`. Writes `data/<dataset>/passages/`:
passages.jsonl, the questions {train,val,test,people}.jsonl, and a manifest. A question has the split of its
page; answers are the page's own words. Held-out questions come first: one that asks the same, or has the same
answer, is in no other split. Promises the same bytes for the same pages.
"""

from stages.core.hashing import stable_unit
from stages.core.records import read_documents
from stages.evaluation.people import one_spelling
from stages.kinds.rag.knobs import PassagesEmbeddedKnobs
from stages.kinds.rag.parts.docstrings import Names, question_of
from stages.kinds.rag.parts.questions import holding, people_questions, write_passages
from stages.kinds.rag.parts.rows import Question
from stages.retrieval.passages import Cutter, Piece, by_source


def run(dataset: str, knobs: PassagesEmbeddedKnobs) -> dict:
    documents = read_documents(knobs.of)
    names = Names(documents)
    passages = Cutter(knobs).passages(Piece(one["id"], one["title"], one["text"]) for one in documents)
    of_page = by_source(passages)
    questions: dict[str, list[Question]] = {}
    known: set[str] = set()
    for split, wanted in (("test", knobs.test), ("val", knobs.val), ("train", knobs.train)):
        own = [one for one in documents if one["split"] == split and one["id"] in of_page]
        chosen: list[Question] = []
        for page in sorted(own, key=lambda one: stable_unit("question", one["id"])):
            name, asked = page["id"], question_of(page, names)
            if asked is None or len(chosen) == wanted:
                continue
            answer = " ".join(asked.answers)
            spelt = {one_spelling(text) for text in (asked.question, answer)}
            if known & spelt:
                continue
            known |= spelt
            gold = list(dict.fromkeys(holding(one, of_page[name]) for one in asked.answers))
            chosen.append(Question(id=name, question=asked.question, answer=answer, gold=gold, source=name))
        questions[split] = chosen
    questions["people"] = people_questions(knobs.eval_rows, of_page)
    return write_passages(dataset, "passages_embedded", knobs, passages, questions, {})
