"""What the keys that a system finds are worth to a language model, beside random, recent and the best keys.

reward_ndcg: nDCG of a row's scored keys in the order of a system, with the model's scores as gains, 0 for the
worst key of the row and 1 for the best. perplexity: of the right answers after the first keys, e to the mean
over rows of their mean loss a token. gap_closed: (perplexity of random keys - own) / (of random keys - of the
oracle's). accuracy (icl): how often the right answer is likelier than OTHERS other ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.core.hashing import stable_integer
from stages.evaluation.ranking import graded_ndcg, table
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.lm_scoring import Scorer
from stages.kinds.retriever.parts.rows import Row
from stages.kinds.retriever.parts.systems import Keys
from stages.retrieval.ranking import Hits

READ = ("chat", "lrlm", "icl")  # tasks whose keys a language model reads
SYSTEMS = ("bm25", "base", "trained", "hybrid_trained")  # the others are for whole corpora
PAIRS = (("trained", "base"), ("trained", "bm25"), ("trained", "random"), ("base", "random"))
OTHERS = 3
Orders = Mapping[str, Sequence[Sequence[str]]]  # for each system and row the ids of keys, best first


def orders(keys: Keys, rows: Sequence[Row], hits: Mapping[str, Hits], seed: int) -> Orders:
    """Also of `random`; `recent`, last first, where rows have own keys; `oracle` where all have scores."""
    made = {name: [keys.found(hits[name], row) for row in range(len(rows))] for name in SYSTEMS}
    made["random"] = [
        sorted(row.get("among", keys.ids), key=lambda key: stable_integer(seed, row["id"], key))
        for row in rows
    ]
    if all("among" in row for row in rows):
        made["recent"] = [row["among"][::-1] for row in rows]
    if all("teacher_scores" in row for row in rows):
        made["oracle"] = [sorted(own, key=lambda key: -own[key]) for own in map(scored, rows)]
    return made


def scored(row: Row) -> dict[str, float]:
    """{key: the language model's score}."""
    return dict(zip([*row["pos"], *row.get("neg", ())], row["teacher_scores"], strict=True))


def rewarded(
    keys: Keys, rows: Sequence[Row], hits: Mapping[str, Hits], knobs: EvaluateRetrieverKnobs
) -> dict:
    """The table of reward_ndcg over the rows that have scores of which not all are equal."""
    places = [place for place, row in enumerate(rows) if len(set(row.get("teacher_scores", ()))) > 1]
    if not places:
        return {}
    rows = [rows[place] for place in places]
    made = orders(keys, rows, {name: hits[name].only(places) for name in SYSTEMS}, knobs.seed)
    values = {
        system: np.array([[reward(row, order)] for row, order in zip(rows, own, strict=True)])
        for system, own in made.items()
        if system != "oracle"  # is 1
    }
    groups = [row["group"] for row in rows]
    return table(values, ["reward_ndcg"], PAIRS, groups, knobs.bootstrap, knobs.seed)


def reward(row: Row, order: Sequence[str]) -> float:
    """Scored keys that are not in the order follow it, by id."""
    own = scored(row)
    low, high = min(own.values()), max(own.values())
    places = {key: place for place, key in enumerate(order)}
    ranked = sorted(own, key=lambda key: (places.get(key, len(places)), key))
    return graded_ndcg([(own[key] - low) / (high - low) for key in ranked])


def read(
    scorer: Scorer,
    task: str,
    keys: Keys,
    rows: Sequence[Row],
    hits: Mapping[str, Hits],
    knobs: EvaluateRetrieverKnobs,
) -> dict:
    """The table of what the model makes of the first keys of each system: of `lm_rows` rows with answers."""
    places = [place for place, row in enumerate(rows) if row.get("answers")]
    places = sorted(places, key=lambda place: stable_integer("read", rows[place]["id"]))[: knobs.lm_rows]
    rows = [rows[place] for place in places]
    if not rows:
        return {}
    made = orders(keys, rows, {name: hits[name].only(places) for name in SYSTEMS}, knobs.seed)
    shown = knobs.shots if task == "icl" else knobs.keys
    answers = [row["answers"][0] for row in rows]
    options = [[answer] for answer in answers]
    if task == "icl":
        options = [[answer, *others(row, answer, answers)] for row, answer in zip(rows, answers, strict=True)]
    prompts, sizes = [], []
    for own in made.values():
        for row, order, choices in zip(rows, own, options, strict=True):
            # the best key stands last, next to the query
            text = "\n\n".join(keys.text(key) for key in reversed(order[:shown]))
            prompts += [(text, {**row, "answers": [choice]}) for choice in choices]
            sizes.append(len(choices))
    scores = iter(np.split(np.array(scorer.scores(task, prompts)), np.cumsum(sizes)[:-1]))
    values = {
        system: np.array([[-own[0], bool((own[0] > own[1:]).all())] for own in (next(scores) for _ in rows)])
        for system in made
    }
    systems, measures = (
        list(made),
        ["perplexity"] + ["gap_closed"] * ("oracle" in made) + ["accuracy"] * (task == "icl"),
    )

    def finish(means: np.ndarray) -> np.ndarray:
        perplexity = np.exp(means[:, :, 0])
        found = {"perplexity": perplexity, "accuracy": means[:, :, 1]}
        if "oracle" in made:
            chance, best = (perplexity[:, [systems.index(name)]] for name in ("random", "oracle"))
            gap = chance - best
            found["gap_closed"] = np.divide(
                chance - perplexity, gap, out=np.full_like(perplexity, np.nan), where=gap != 0
            )
        return np.stack([found[measure] for measure in measures], axis=2)

    groups = [row["group"] for row in rows]
    return table(values, measures, PAIRS, groups, knobs.bootstrap, knobs.seed, finish)


def others(row: Row, answer: str, answers: Sequence[str]) -> list[str]:
    """OTHERS answers of other rows, none of them right here."""
    wrong = set(answers) - set(row["answers"])
    return sorted(wrong, key=lambda text: stable_integer(row["id"], text))[:OTHERS]
