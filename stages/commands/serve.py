"""Serve what datasets made, on this machine, by OpenAI's protocol: students, retrievers, rerankers.

Each is asked for by the name of its dataset: a student for chats, a retriever for /v1/embeddings, a reranker
for /v1/rerank. A chat request's last user message is put into prompts/DATASET/student.md, as in training; a
student of skills answers with a call. With vLLM and CUDA, `vllm serve` serves what it can serve alike; all
else goes to a small server on the engines of this project. The first line of standard output tells the
address, once requests are answered.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from stages import params
from stages.core import layout
from stages.core.messages import say
from stages.core.stage import main
from stages.engines.serve import bodies
from stages.engines.serve.student import Served
from stages.kinds.registry import KINDS

ENGINES = ("openvino", "transformers", "vllm")
SAMPLING = {"max_new_tokens", *bodies.SAMPLING}


def served(dataset: str) -> Served:
    """How its kind of task has the student of a dataset asked and read; as plain text where no kind says.

    A kind knows its datasets by their files: a student may be served where no params.yaml is.
    """
    modules = (importlib.import_module(kind.serving) for kind in KINDS if kind.serving)
    return next(filter(None, (module.served(dataset) for module in modules)), Served())


def readers_of(dataset: str) -> dict:
    """The retriever and the reranker of a dataset, those that are there, as fields of the server's Model."""
    retriever, reranker = (layout.model(dataset, name) for name in ("retriever", "reranker"))
    readers: dict = {}
    # oneDNN keeps a kernel for each shape of a batch, up to 1,024: 1.5 GiB after two minutes of 32 clients,
    # and growing; with so few 1.2. It has no other way to be told, and reads it at its first kernel.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # Their packages take seconds to import: a server of students alone does not wait for them.
    if (retriever / "modules.json").is_file():
        from stages.engines.serve.texts import Encoder, TextQueue
        from stages.retrieval.knobs import Encoder as EncoderKnobs
        from stages.retrieval.transformer import Transformer
        from stages.retrieval.vectors import prompt_of

        encoder = Transformer(EncoderKnobs(encoder=str(retriever), batch_size=32))
        prompts = {side: prompt_of(str(retriever), side) for side in ("query", "document")}

        def vectors(items: Sequence[tuple[str, str]]) -> tuple[Any, list[int]]:
            texts = [prompts[side] + text for text, side in items]
            return encoder.encode(texts, "observed"), tokens_of(encoder.model.tokenizer, texts)

        readers["encoder"] = Encoder(TextQueue(vectors), encoder.dims)
        say(f"serve: {dataset}: a retriever of {encoder.dims} dimensions")
    if (reranker / "config.json").is_file():
        from stages.engines.serve.texts import Reranker, TextQueue
        from stages.retrieval.ranking import load_reranker, pair_scores

        cross = load_reranker(str(reranker))

        def scores(pairs: Sequence[tuple[str, str]]) -> tuple[Any, list[int]]:
            return pair_scores(cross, pairs), tokens_of(cross.tokenizer, pairs)

        readers["reranker"] = Reranker(TextQueue(scores))
        say(f"serve: {dataset}: a reranker")
    return readers


def tokens_of(tokenizer: Callable, texts: Sequence) -> list[int]:
    """How many tokens each text, or pair of texts, has before any is cut."""
    return list(map(len, tokenizer(list(texts), truncation=False)["input_ids"]))


def usual_decoding(dataset: str, stages: Iterable[str]) -> dict:
    """What a request need not say: SAMPLING of the first of the stages that has a block for the dataset.

    Nothing where no params.yaml or no such block is there. Raises UserError for a block that is not valid.
    """
    blocks = params.blocks() if params.PARAMS.is_file() else {}
    for stage in stages:
        if dataset in blocks.get(stage, {}):
            return params.knobs_of(dataset, stage, blocks).model_dump(include=SAMPLING)
    return {}


@click.command(help=__doc__)
@click.argument("datasets", nargs=-1, required=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Others reach this machine only by 0.0.0.0."
)
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--engine", type=click.Choice(ENGINES), help="Default: vllm with CUDA; else see docs/guide/serving.md."
)
@click.option("--grammar", is_flag=True, help="Hold every answer to the grammar of the dataset's calls.")
@click.option("--precision", default="auto", show_default=True, help="auto, f32 or bf16.")
@click.option("--threads", type=int, help="CPU threads of the engine. Default: 2, transformers 1.")
@click.option(
    "--batch", "batch_size", type=int, help="Requests answered together. Default: 8, transformers 1."
)
@main
def cli(
    datasets: tuple[str, ...],
    host: str,
    port: int,
    engine: str | None,
    grammar: bool,
    precision: str,
    **sizes: int | None,
) -> None:
    from stages.engines.serve import start

    of_kinds = {dataset: served(dataset) for dataset in datasets}
    given = {name: size for name, size in sizes.items() if size is not None}
    decodings = {
        dataset: {
            "precision": precision,
            **usual_decoding(dataset, [name for name in (of_kind.evaluated_by, "generate") if name]),
            **given,
        }
        for dataset, of_kind in of_kinds.items()
    }
    readers = {dataset: readers_of(dataset) for dataset in datasets}
    start.run(of_kinds, readers, host=host, port=port, engine=engine, constrain=grammar, decodings=decodings)
