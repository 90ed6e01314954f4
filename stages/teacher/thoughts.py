"""The thoughts that reasoning models write around their answer, where the server leaves them in the text.

Only what a model says after its thoughts is an answer: DeepSeek, Qwen and others write `<think>`, Magistral
`[THINK]`, Kimi `◁think▷`, Command A `<|START_THINKING|>`, gpt-oss and Gemma a channel of their own.
"""

import json
import re

NAME = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning)"  # with the prefix of some: `seed:think`
BEGIN = re.compile(
    rf"<{NAME}\b[^<>]*>|\[THINK\]|◁think▷|<\|start_thinking\|>|<\|begin_of_thought\|>"
    # Channels of gpt-oss, also where the server leaves out special tokens, and of Gemma.
    r"|<\|channel\|?>(?!\s*final)|\Aanalysis(?=(?-i:[A-Z]))",
    re.IGNORECASE,
)
END = re.compile(
    rf"</{NAME}\s*>|\[/THINK\]|◁/think▷|<\|end_thinking\|>|<\|end_of_thought\|>"
    r"|<\|channel\|>\s*final\b[^\n]*?<\|message\|>|<channel\|>|\Aanalysis(?=(?-i:[A-Z])).*assistantfinal",
    re.IGNORECASE | re.DOTALL,
)
AROUND = re.compile(r"\A(?:[^\S\n]*\n)+|(?:<\|(?:return|end)\|>|\s)+\Z")  # blank lines, and the end of a turn


def without_thoughts(text: str) -> str:
    """What a model says after its last thought; '' where it never came to an end of them.

    The opening tag may be missing, because chat templates write it into the prompt. A text without thoughts
    stays as it is, and so does a JSON object, which may speak of such tags.
    """
    ends = [match.end() for match in END.finditer(text)]
    answer = text[ends[-1] :] if ends else text
    if begin := BEGIN.search(answer):
        answer = answer[: begin.start()]
    if answer == text or _is_object(text):
        return text
    return AROUND.sub("", answer)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
