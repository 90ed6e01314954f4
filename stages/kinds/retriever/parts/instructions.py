"""What stands before a query and before a key, by task, as four families of retrievers were trained.

In the exported model they are prompts: `qa_query`, `qa_document` and so on.
"""

from stages.kinds.retriever.parts.rows import TASKS

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
