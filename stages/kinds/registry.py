"""The kinds of task: each a module of pure functions, chosen by the knob `task`.

A kind reads what a model wrote: `lines(text)` (the texts in it, each with its line from 0), `parse(text)`
(these texts, each once) and `parse_answer(response, form, cut)` (the same of a teacher's answer, as whatever
the kind makes of it: a list of queries or calls, a tree of categories). Of such an answer, `fit(answer,
document)` is the part that may be used, `flat(answer)` its texts, and `output(answer)` how the student is to
write it. A text is judged by `well_formed(text)` and `reject(text, document)` (why it may not be used, or
None); LEFT_OUT says why `fit` leaves out one that is not rejected. `Answer` is the pydantic model that a
structured answer has to obey.
"""

from types import ModuleType
from typing import Literal

Task = Literal["queries", "categories", "skills"]


def kind(task: Task) -> ModuleType:
    if task == "categories":
        from stages.kinds.xc.parts import categories as chosen
    elif task == "skills":
        from stages.kinds.skills.parts import task as chosen
    else:
        from stages.kinds.xc.parts import queries as chosen
    return chosen
