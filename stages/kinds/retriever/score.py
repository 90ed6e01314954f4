"""How much each key helps a language model to the answer of its row.

Reads data/DATASET/mined/ and models/base/BASE/; with `base_url` the server scores, and BASE is the model
whose tokenizer it has. Writes data/DATASET/scored/: the same rows and keys, and `teacher_scores` for rows of
`tasks` that have an answer: the mean log-probability of the answer's tokens for each positive, then each
negative, of which those beyond `keys` are left out. Rows that bring scores keep them. Scores are kept in
scratch under a fingerprint of the model: a stopped run goes on where it was, no prompt is scored twice.
"""

from collections import Counter

from stages.core import layout
from stages.core.errors import UserError
from stages.kinds.retriever.knobs import ScoreKnobs
from stages.kinds.retriever.parts.lm_scoring import LanguageModel, Scorer, Server, kept_scores, score_prompts
from stages.kinds.retriever.parts.prompts import Prompts, answer_of, candidates
from stages.kinds.retriever.parts.rows import Task, folder_of, read_tasks, write_tasks


def run(dataset: str, knobs: ScoreKnobs) -> dict:
    tasks = read_tasks(folder_of(dataset, "mined"))
    model = opened(knobs)
    if knobs.max_length > model.context:
        raise UserError(
            f"params.yaml, score.{dataset}: max_length {knobs.max_length} is more than the {model.context} "
            f"tokens that {knobs.base} reads; lower it"
        )
    figures, wanted = {}, []
    for name, task in tasks.items():
        if name in knobs.tasks:
            figures[name], asked = asked_of(name, task, model, knobs)
            wanted += asked
    prompts = [prompt for _, own in wanted for prompt in own]
    scores = iter(score_prompts(model, prompts, kept_scores(model)))
    for row, own in wanted:
        row["teacher_scores"] = [round(next(scores), 6) for _ in own]
    write_tasks(folder_of(dataset, "scored"), "score", tasks)
    return {"tasks": figures, "prompts": len(prompts)}


def opened(knobs: ScoreKnobs) -> Scorer:
    base = layout.base_model(knobs.base)
    if knobs.base_url:
        return Server(base, knobs.base_url, knobs.model, knobs.api_key_env)
    return LanguageModel(base, knobs.precision, knobs.tokens_per_batch)


def asked_of(name: str, task: Task, model: Scorer, knobs: ScoreKnobs) -> tuple[dict, list]:
    """(counts, the rows to score, each with its prompts); negatives that are not scored are taken out."""
    rows, prompts, asked = task.rows(), Prompts(name, model.codec, knobs), []
    counts = Counter({"rows": len(rows)})
    for row in rows:
        answer = answer_of(row, knobs.seed)
        if "teacher_scores" in row:
            counts["brought"] += 1
        elif answer is None:
            counts["without_answer"] += 1
        else:
            pos, row["neg"] = candidates(row, knobs.keys)
            if not (texts := [task.keys[key] for key in (*pos, *row["neg"])]):
                counts["without_keys"] += 1
                continue
            asked.append((row, prompts.of(row, texts, answer)))
    return {**counts, "scored": len(asked), "cut_keys": prompts.cut}, asked
