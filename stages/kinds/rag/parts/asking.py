"""How students of rag are served: passages are found for each question, and its prompt is as in training."""

from collections.abc import Sequence
from pathlib import Path

from stages.core import layout
from stages.engines.serve.bodies import Refused
from stages.engines.serve.student import Asked, Served, exported
from stages.kinds.rag import places
from stages.kinds.rag.parts.context import prompts_of
from stages.kinds.rag.parts.rows import query_of, read_passages

PAGE = Path(__file__).with_name("page.html")


def served(dataset: str) -> Served | None:
    """How the student of this dataset is served; None for a dataset without passages.

    Raises UserError where its passages or its retriever cannot be read.
    """
    if not (layout.litgpt_data(dataset) / places.CONTEXT).is_file():
        return None
    return Served(ask=Asking(dataset).ask, page=PAGE, evaluated_by="answer")


class Asking:
    """The passages of a dataset and its retriever, loaded and warm."""

    def __init__(self, dataset: str):
        # Its packages take seconds to import: who serves a dataset of another kind does not wait for them.
        from stages.kinds.rag.parts.answering import retriever_of

        self.prompts = prompts_of(dataset, exported(dataset))
        self.passages = read_passages(dataset)
        self.retriever = retriever_of(dataset, self.passages)
        self.retriever.find([next(iter(self.passages.values()))["title"]], 1)

    def ask(self, turns: Sequence[tuple[str, str]]) -> Asked:
        """The prompt of a chat, and the passages in it, whole, with the retriever's scores.

        Raises Refused where nothing is found, UserError where the chat is too long.
        """
        *before, (_, text) = turns
        history = [{"speaker": role, "message": message} for role, message in before]
        question = {"question": text, "history": history}
        ((names, scores),) = self.retriever.find([query_of(question)], self.prompts.knobs.retrieve)
        if not names:
            raise Refused("no passage was found for this question", "messages", "nothing_found", 422)
        prompt = self.prompts.of(question, [self.passages[name] for name in names])
        shown = [
            {key: self.passages[name][key] for key in ("id", "title", "text")} | {"score": score}
            for name, score in zip(names, scores, strict=True)
            if name in prompt.passages
        ]
        return Asked(prompt.text, {"passages": shown})
