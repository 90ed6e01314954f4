"""What stands before a query and before a key, by task, as four families of retrievers were trained.

In the exported model they are prompts: `qa_query`, `qa_document` and so on.
"""

from stages.kinds.retriever.parts.rows import TASKS

_LLM_EMBEDDER = {
    "qa": ("Represent this query for retrieving relevant documents", "Represent this document for retrieval"),
    "convsearch": (
        "Encode this query and context for searching relevant passages",
        "Encode this passage for retrieval",
    ),
    "chat": (
        "Embed this dialogue to find useful historical dialogues",
        "Embed this historical dialogue for retrieval",
    ),
    "lrlm": (
        "Embed this text chunk for finding useful historical chunks",
        "Embed this historical text chunk for retrieval",
    ),
    "icl": (
        "Convert this example into vector to look for useful examples",
        "Convert this example into vector for retrieval",
    ),
    "tool": (
        "Transform this user request for fetching helpful tool descriptions",
        "Transform this tool description for retrieval",
    ),
}
_INSTRUCTOR = {
    "qa": ("query for retrieving supporting documents", "document"),
    "convsearch": ("query and context for retrieving supporting passages", "passage"),
    "chat": ("dialogue for retrieving useful historical dialogues", "historical dialogue"),
    "lrlm": ("text chunk for retrieving useful historical chunks", "historical text chunk"),
    "icl": ("example for retrieving duplicate examples", "example"),
    "tool": ("user request for retrieving duplicate examples", "tool description"),
}
INSTRUCTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "none": dict.fromkeys(TASKS, ("", "")),
    "llm_embedder": {task: (f"{query}: ", f"{key}: ") for task, (query, key) in _LLM_EMBEDDER.items()},
    "bge": dict.fromkeys(TASKS, ("Represent this sentence for searching relevant passages: ", "")),
    "e5": dict.fromkeys(TASKS, ("query: ", "passage: ")),
    "instructor": {
        task: (f"Represent the {query}: ", f"Represent the {key} for retrieval: ")
        for task, (query, key) in _INSTRUCTOR.items()
    },
}


def prompts(version: str, tasks: list[str]) -> dict[str, str]:
    """The prompts of a sentence-transformers model; `query` and `document` are those of the first task."""
    pairs = INSTRUCTIONS[version]
    named = {"query": pairs[tasks[0]][0], "document": pairs[tasks[0]][1]}
    if version != "none":
        for task in tasks:
            named |= {f"{task}_query": pairs[task][0], f"{task}_document": pairs[task][1]}
    return named
