"""What models read around a row's texts, by task: the language model that scores keys, and encoders.

The language model's wording is LLM-Embedder's; tool retrieval has no reward there, and wording of the same
make. What stands before queries and keys is as four families of retrievers were trained; in the exported
model these instructions are prompts: `qa_query`, `qa_document` and so on.
"""

from collections.abc import Sequence

from stages.core.hashing import stable_integer
from stages.core.tokenizer import TextCodec
from stages.kinds.retriever.knobs import ScoreKnobs
from stages.kinds.retriever.parts.lm_scoring import Prompt, answer_ids, text_prompt
from stages.kinds.retriever.parts.rows import TASKS, Row

KNOWLEDGE = "Knowledge: {key}\n\nQuestion: {query}\n\nAnswer: "
TOKEN_CHARACTERS = 100  # no more of a token are looked at: a key may be a MB, of which 96 tokens are read
TEMPLATES = {
    "qa": KNOWLEDGE,
    "convsearch": KNOWLEDGE,
    "chat": "{key}\nSpeaker 1: {query}\nSpeaker 2: ",
    "icl": "{key}\n{query}\n",
    "tool": "Tool: {key}\n\nRequest: {query}\n\nCall: ",
    "lrlm": "{key}{context}{query}",
}


def answer_of(row: Row, seed: int) -> str | None:
    """One of the answers that are not blank, drawn by a hash of the row's id; None where there is none."""
    answers = [answer for answer in row.get("answers", []) if answer.strip()]
    return answers[stable_integer("answer", seed, row["id"]) % len(answers)] if answers else None


def candidates(row: Row, keys: int) -> tuple[list[str], list[str]]:
    """(positives, negatives) that are scored: all positives, and the first negatives up to `keys` in all.

    But two negatives at least, where there are so many: training draws some of them.
    """
    return row["pos"], row.get("neg", [])[: max(keys - len(row["pos"]), 2)]


def beginnings(codec: TextCodec, text: str, tokens: int) -> list[str]:
    """What `text` begins with, from nothing to so many tokens: all of a text that has no more."""
    read = text[: TOKEN_CHARACTERS * tokens]
    ends = [end for _, end in codec.tokenizer.encode(read, add_special_tokens=False).offsets]
    return ["", *(read[:end] for end in ends[:tokens])]


class Prompts:
    """The prompts of a task's rows. `cut` counts those whose key is longer than the knobs allow."""

    def __init__(self, task: str, codec: TextCodec, knobs: ScoreKnobs):
        self.task, self.codec, self.knobs, self.cut = task, codec, knobs, 0

    def of(self, row: Row, keys: Sequence[str], answer: str) -> list[Prompt]:
        """One for each text of `keys`: the key is cut to fit, and only then what stands at the beginning."""
        knobs, strip = self.knobs, (lambda text: text) if self.task == "lrlm" else str.strip
        target = answer_ids(self.codec, strip(answer))[: knobs.answer_max_length]
        room = knobs.max_length - len(target)
        texts = {"query": strip(row["query"]), "context": row.get("context", "")}
        prompts = []
        for key in map(strip, keys):
            starts = beginnings(self.codec, key, knobs.key_max_length)
            prompt = self._made(starts[-1], texts)
            while starts[1:] and (over := len(prompt.before) - room) > 0:
                starts = starts[: max(1, len(starts) - over)]
                prompt = self._made(starts[-1], texts)
            self.cut += len(starts[-1]) < len(key)
            if len(prompt.before) > room:
                prompt = Prompt((), prompt.before[-room:], ())
            prompts.append(prompt._replace(answer=target))
        return prompts

    def _made(self, key: str, texts: dict[str, str]) -> Prompt:
        head, tail = TEMPLATES[self.task].split("{key}")
        return text_prompt(self.codec, head + key + tail.format(**texts), "", len(head + key))


# Before a query | before a key, less "for retrieval", in the order of TASKS.
_LLM_EMBEDDER = """\
Represent this query for retrieving relevant documents | Represent this document
Encode this query and context for searching relevant passages | Encode this passage
Embed this dialogue to find useful historical dialogues | Embed this historical dialogue
Embed this text chunk for finding useful historical chunks | Embed this historical text chunk
Convert this example into vector to look for useful examples | Convert this example into vector
Transform this user request for fetching helpful tool descriptions | Transform this tool description
"""
_INSTRUCTOR = """\
query for retrieving supporting documents | document
query and context for retrieving supporting passages | passage
dialogue for retrieving useful historical dialogues | historical dialogue
text chunk for retrieving useful historical chunks | historical text chunk
example for retrieving duplicate examples | example
user request for retrieving duplicate examples | tool description
"""


def _by_task(table: str, before: str = "") -> dict[str, tuple[str, str]]:
    pairs = (line.split(" | ") for line in table.splitlines())
    made = ((f"{before}{query}: ", f"{before}{key} for retrieval: ") for query, key in pairs)
    return dict(zip(TASKS, made, strict=True))


INSTRUCTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "none": dict.fromkeys(TASKS, ("", "")),
    "llm_embedder": _by_task(_LLM_EMBEDDER),
    "bge": dict.fromkeys(TASKS, ("Represent this sentence for searching relevant passages: ", "")),
    "e5": dict.fromkeys(TASKS, ("query: ", "passage: ")),
    "instructor": _by_task(_INSTRUCTOR, "Represent the "),
}


def prompts(version: str, tasks: list[str]) -> dict[str, str]:
    """The prompts of a sentence-transformers model; `query` and `document` are those of the first task."""
    pairs = INSTRUCTIONS[version]
    named = {"query": pairs[tasks[0]][0], "document": pairs[tasks[0]][1]}
    if version != "none":
        for task in tasks:
            named |= {f"{task}_query": pairs[task][0], f"{task}_document": pairs[task][1]}
    return named
