"""Asking an engine as stages do that measure a model: all prompts together, or one at a time for latency."""

from collections.abc import Sequence
from time import perf_counter

from stages.core.progress import Progress
from stages.engines.protocol import Decoding, Engine, Generation


def together(
    engine: Engine,
    prompts: Sequence[str],
    decoding: Decoding,
    seeds: Sequence[int],
    grammar: str | None = None,
) -> list[Generation]:
    """The answers, in the order of the prompts."""
    answers = []
    with Progress(len(prompts), "answers of a model", "answer") as shown:
        for answer in engine.generate(list(prompts), decoding, list(seeds), grammar=grammar):
            answers.append(answer)
            shown.update()
    return sorted(answers, key=lambda answer: answer.index)


def alone(
    engine: Engine,
    prompts: Sequence[str],
    decoding: Decoding,
    seeds: Sequence[int],
    grammar: str | None = None,
) -> list[tuple[Generation, float]]:
    """Each answer with its milliseconds. The first prompt is asked once before, to warm up.

    `engine` was opened with this `decoding`, whose batch_size is 1.
    """
    timed, asked = [], [*zip(prompts, seeds, strict=True)]
    for prompt, seed in [*asked[:1], *asked]:
        begun = perf_counter()
        (answer,) = engine.generate([prompt], decoding, [seed], grammar=grammar)
        timed.append((answer, round(1000 * (perf_counter() - begun), 2)))
    return timed[1:]
