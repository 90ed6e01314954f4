"""What the keys that a system finds are worth to a language model, beside random, recent and the best keys.

reward_ndcg: nDCG of a row's scored keys in the order of a system, with the model's scores as gains, 0 for the
worst key of the row and 1 for the best. perplexity: of the right answers after the first keys, e to the mean
over rows of their mean loss a token. gap_closed: (perplexity of random keys - own) / (of random keys - of the
oracle's). accuracy (icl): how often the right answer is likelier than OTHERS other ones.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random

import numpy as np

from stages.core import layout
from stages.core.hashing import stable_integer
from stages.evaluation.ranking import graded_ndcg, table
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs, ScoreKnobs
from stages.kinds.retriever.parts.comparing import Ranked
from stages.kinds.retriever.parts.lm_scoring import LanguageModel, kept_scores, score_prompts
from stages.kinds.retriever.parts.prompts import Prompts, answer_of, beginnings
from stages.kinds.retriever.parts.rows import Row

READ = ("chat", "lrlm", "icl")  # tasks whose keys a language model reads
SYSTEMS = ("bm25", "base", "trained", "hybrid_trained")  # the others are for whole corpora
PAIRS = (("trained", "base"), ("trained", "bm25"), ("trained", "random"), ("base", "random"))
OTHERS = 3
Orders = Mapping[str, Sequence[Sequence[str]]]  # for each system and row the ids of keys, best first


def orders(ranked: Ranked, seed: int) -> Orders:
    """Also of `random`; `recent`, last first, where rows have own keys; `oracle` where all have scores."""
    rows, made = ranked.rows, {name: ranked.found(name) for name in SYSTEMS}
    chosen = [(Random(f"{seed} {row['id']}"), row.get("among", ranked.keys.ids)) for row in rows]
    made["random"] = [random.sample(own, len(own)) for random, own in chosen]
    if all("among" in row for row in rows):
        made["recent"] = [row["among"][::-1] for row in rows]
    if all("teacher_scores" in row for row in rows):
        made["oracle"] = [sorted(own, key=lambda key: -own[key]) for own in map(scored, rows)]
    return made


def scored(row: Row) -> dict[str, float]:
    """{key: the language model's score}."""
    return dict(zip([*row["pos"], *row.get("neg", ())], row["teacher_scores"], strict=True))


def rewarded(ranked: Ranked, knobs: EvaluateRetrieverKnobs) -> dict:
    """The table of reward_ndcg over the rows that have scores of which not all are equal."""
    places = [place for place, row in enumerate(ranked.rows) if len(set(row.get("teacher_scores", ()))) > 1]
    if not places:
        return {}
    ranked = ranked.only(places)
    values = {
        system: np.array([[reward(row, order)] for row, order in zip(ranked.rows, own, strict=True)])
        for system, own in orders(ranked, knobs.seed).items()
        if system != "oracle"  # is 1
    }
    return table(values, ["reward_ndcg"], PAIRS, ranked.groups, knobs.bootstrap, knobs.seed)


def reward(row: Row, order: Sequence[str]) -> float:
    """Scored keys that are not in the order follow it, by id."""
    own = scored(row)
    low, high = min(own.values()), max(own.values())
    places = {key: place for place, key in enumerate(order)}
    ranked = sorted(own, key=lambda key: (places.get(key, len(places)), key))
    return graded_ndcg([(own[key] - low) / (high - low) for key in ranked])


class Reader:
    """The language model `lm`, loaded when it is first needed; what `score` has scored is not read again."""

    def __init__(self, knobs: EvaluateRetrieverKnobs):
        self.knobs, self.limits = knobs, ScoreKnobs(base=knobs.lm)

    @cached_property
    def model(self) -> LanguageModel:
        return LanguageModel(layout.base_model(self.knobs.lm))

    def read(self, ranked: Ranked) -> dict:
        """The table of what it makes of the first keys of each system: of `lm_rows` rows with answers."""
        knobs, task, rows = self.knobs, ranked.keys.task, ranked.rows
        places = [place for place, row in enumerate(rows) if answer_of(row, self.limits.seed)]
        if task not in READ or not places:
            return {}
        places.sort(key=lambda place: stable_integer("read", rows[place]["id"]))
        ranked = ranked.only(places[: knobs.lm_rows])
        rows, made = ranked.rows, orders(ranked, knobs.seed)
        answers = [answer_of(row, self.limits.seed) or "" for row in rows]
        wrong = [others(row, answers) if task == "icl" else [] for row in rows]
        choices = [[answer, *more] for answer, more in zip(answers, wrong, strict=True)]
        shown = knobs.shots if task == "icl" else knobs.keys
        context = dict.fromkeys(("max_length", "key_max_length"), self.model.context)
        prompts, asked = Prompts(task, self.model.codec, self.limits.model_copy(update=context)), []
        for row, texts, *own in zip(rows, choices, *made.values(), strict=True):
            # of each system the best key stands last, next to the query
            before = [
                "\n\n".join(self.cut(ranked.keys.text(k)) for k in reversed(order[:shown])) for order in own
            ]
            asked += [prompt for text in texts for prompt in prompts.of(row, before, text)]
        scores = np.reshape(score_prompts(self.model, asked, kept_scores(self.model)), (-1, len(made)))
        # of each row (answers, systems)
        told = np.split(scores, np.cumsum([len(texts) for texts in choices])[:-1])
        values = {
            system: np.array([[-own[0, place], (own[0, place] > own[1:, place]).all()] for own in told])
            for place, system in enumerate(made)
        }
        systems, gap = list(made), ["gap_closed"] if "oracle" in made else []
        measures = ["perplexity", *gap, *(["accuracy"] if task == "icl" else [])]

        def finish(means: np.ndarray) -> np.ndarray:
            own = np.exp(means[:, :, 0])
            found = {"perplexity": own, "accuracy": means[:, :, 1]}
            if gap:
                chance, best = (own[:, [systems.index(name)]] for name in ("random", "oracle"))
                none = np.full_like(own, np.nan)
                found["gap_closed"] = np.divide(chance - own, chance - best, out=none, where=chance != best)
            return np.stack([found[measure] for measure in measures], axis=2)

        return table(values, measures, PAIRS, ranked.groups, knobs.bootstrap, knobs.seed, finish)

    def cut(self, text: str) -> str:
        """As long as a key may be where it is scored."""
        return beginnings(self.model.codec, text, self.limits.key_max_length)[-1]


def others(row: Row, answers: Sequence[str]) -> list[str]:
    """OTHERS answers of other rows, none of them right here."""
    wrong = set(answers) - set(row.get("answers", ()))
    return sorted(wrong, key=lambda text: stable_integer(row["id"], text))[:OTHERS]
