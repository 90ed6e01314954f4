"""The prompt of a question and its passages: the same for training, answering and serving.

Nothing of question, history or answer is ever cut: passages give way, each to `passage_length` tokens first,
then the last of them until the prompt fits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_object
from stages.core.prompts import Template, render
from stages.core.records import Document
from stages.core.stage import valid
from stages.core.tokenizer import TextCodec
from stages.kinds.rag import places
from stages.kinds.rag.knobs import ConvertRagKnobs
from stages.kinds.rag.parts.rows import Question
from stages.retrieval.fitting import fitted


class Prompt(NamedTuple):
    """The text, the ids of the passages in it, in order, and how many were cut or left out."""

    text: str
    passages: list[str]
    cut: int
    dropped: int


class Prompts:
    """Makes prompts with the template of a dataset, counted in the tokens of a model."""

    def __init__(self, template: Template, codec: TextCodec, knobs: ConvertRagKnobs):
        self.template, self.codec, self.knobs = template, codec, knobs

    def of(self, question: Mapping, passages: Sequence[Mapping]) -> Prompt:
        """The prompt of a Question (`question`, and `history` if it has one) and its passages, in order.

        Raises UserError where question and history alone leave no room for an answer.
        """
        room = self.knobs.max_length - self.knobs.answer_length
        texts = [self.codec.clipped(passage["text"], self.knobs.passage_length) for passage in passages]

        def shown(given: list[str]) -> list[dict]:
            return [{**passage, "text": text} for passage, text in zip(passages, given, strict=False)]

        text, kept, over = fitted(
            self.codec, texts, room, lambda given: self._rendered(question, shown(given))
        )
        if over > 0:
            raise UserError(
                f"question {question.get('id', '')!r}: without any passage its prompt is {over} tokens "
                f"over max_length {self.knobs.max_length} less answer_length {self.knobs.answer_length}; "
                "raise max_length in the block convert_rag (finetune_fid: passage_length)"
            )
        cut = sum(one["text"] != whole["text"] for one, whole in zip(shown(kept), passages, strict=False))
        return Prompt(text, [one["id"] for one in shown(kept)], cut, len(passages) - len(kept))

    def _rendered(self, question: Mapping, passages: list[dict]) -> str:
        """No text of people's is a special token, whether or not the model has a chat template."""
        plain = self.codec.disarmed
        shown = [{**one, "title": plain(one["title"]), "text": plain(one["text"])} for one in passages]
        history = [{**turn, "message": plain(turn["message"])} for turn in question.get("history") or []]
        document: Document = {
            "id": question.get("id", ""),
            "title": "",
            "text": plain(question["question"]),
            "metadata": {"passages": shown, "history": history},
            "split": "",
        }
        return render(self.template, document)


def prompts_of(dataset: str, model: Path) -> Prompts:
    """As `convert_rag` made those that the students of `dataset` learnt from. Raises UserError."""
    return Prompts(Template(layout.prompt(dataset, "student")), TextCodec(model), knobs_of(dataset))


def knobs_of(dataset: str) -> ConvertRagKnobs:
    """Those of `convert_rag`, as it noted them. Raises UserError."""
    return valid(ConvertRagKnobs, read_object(layout.litgpt_data(dataset) / places.CONTEXT), places.CONTEXT)


def gold_first(question: Question, found: Sequence[str], count: int) -> list[str]:
    """Ids of gold passages, then of those found that are not gold, `count` in all or more gold ones."""
    rest = [name for name in found if name not in question["gold"]]
    return [*question["gold"], *rest[: max(0, count - len(question["gold"]))]]
