"""Embeddings, reranking and metrics of the server, asked as clients ask."""

import asyncio
import json
import os
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from stages.engines.serve import texts
from stages.engines.serve.queue import Full
from stages.engines.serve.texts import TextQueue
from tests.engines.serve.test_server import client_of, start
from tests.helpers.retrieval_rows import tiny_encoder
from tests.helpers.skills_project import make_project

pytestmark = pytest.mark.slow  # loads models

PAGES = ["the curve of a matrix", "a graph of nodes", "variance and quantile of a series, which is longer"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    directory, before = tmp_path_factory.mktemp("texts"), os.getcwd()
    os.chdir(directory)
    make_project("otto")
    tiny_encoder(directory / "models/shop/retriever")
    CrossEncoder("models/shop/retriever-plain", num_labels=1).save_pretrained("models/shop/reranker")
    os.chdir(before)
    return directory


@pytest.fixture(scope="module")
def client(project):
    process = start(project, "shop", dataset="otto")
    try:
        yield client_of(process)
    finally:
        process.terminate()
        process.wait(20)


def post(client, path, **body):
    request = urllib.request.Request(
        f"{client.base_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_a_student_a_retriever_and_a_reranker_at_one_address(client, project):
    assert {model.id for model in client.models.list()} == {"otto", "shop"}
    asked = [{"role": "user", "content": "Switch the lamp on, please"}]
    assert client.chat.completions.create(model="otto", messages=asked, max_tokens=4).usage.completion_tokens
    with pytest.raises(openai.BadRequestError, match="no chats"):
        client.chat.completions.create(model="shop", messages=asked)
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="otto", input="a")
    with pytest.raises(openai.NotFoundError, match="'otto' and 'shop'"):
        client.embeddings.create(model="gpt", input="a")


def test_embeddings_are_those_of_sentence_transformers(client, project):
    model = SentenceTransformer(str(project / "models/shop/retriever"))
    expected = model.encode(PAGES, normalize_embeddings=True)
    made = client.embeddings.create(model="shop", input=PAGES)  # the client asks for base64
    assert [one.index for one in made.data] == [0, 1, 2]
    assert np.allclose([one.embedding for one in made.data], expected, atol=2e-2)
    assert made.usage.total_tokens == sum(len(ids) for ids in model.tokenizer(PAGES)["input_ids"])
    plain = client.embeddings.create(model="shop", input=PAGES[0], encoding_format="float", dimensions=8)
    (short,) = [one.embedding for one in plain.data]
    assert len(short) == 8 and np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    assert np.allclose(short, expected[0][:8] / np.linalg.norm(expected[0][:8]), atol=2e-2)


def test_many_clients_at_once(client):
    """One thread alone uses the tokenizer, which is set to cut, and not to cut, in turn."""

    def ask(number: int) -> int:
        return client.embeddings.create(model="shop", input=[PAGES[number % 3]] * 5).usage.total_tokens

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(ask, range(96)))
    assert len(set(told)) <= 3 and min(told) > 0


def test_documents_are_reranked_as_the_cross_encoder_says(client, project):
    model = CrossEncoder(str(project / "models/shop/reranker"))
    scores = model.predict([("which curve", page) for page in PAGES])
    status, made = post(client, "rerank", model="shop", query="which curve", documents=PAGES, top_n=2)
    assert status == 200, made
    assert [one["index"] for one in made["results"]] == np.argsort(-scores).tolist()[:2]
    assert made["results"][0]["document"]["text"] == PAGES[int(scores.argmax())]
    assert made["results"][0]["relevance_score"] == pytest.approx(float(scores.max()), abs=2e-2)
    given = {"documents": [{"text": page} for page in PAGES], "return_documents": False}
    _, bare = post(client, "rerank", model="shop", query="which curve", **given)
    assert len(bare["results"]) == 3 and "document" not in bare["results"][0]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": ["a", ""]}, "input"),
        ("embeddings", {"input": [1, 2]}, "input"),
        ("embeddings", {"input": "a", "dimensions": 99}, "32 dimensions"),
        ("embeddings", {"input": "a", "task": "x"}, "task"),
        ("embeddings", {"input": ["a"] * 2049}, "2048"),
        ("rerank", {"query": "a", "documents": []}, "documents"),
        ("rerank", {"query": "", "documents": ["a"]}, "query"),
        ("rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_what_cannot_be_read_is_refused(client, path, body, told):
    status, error = post(client, path, model="shop", **body)
    assert status == 400 and told in error["message"]


def test_metrics_for_prometheus(client):
    client.embeddings.create(model="shop", input="a graph")
    post(client, "rerank", model="nobody", query="a", documents=["b"])
    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics")) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = reply.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values['retort_requests_total{path="/v1/embeddings",status="200"}']) >= 1
    assert int(values['retort_requests_total{path="/v1/rerank",status="404"}']) >= 1
    assert int(values['retort_tokens_total{model="shop",kind="prompt"}']) > 0
    assert values['retort_requests_in_progress{model="shop"}'] == "0"
    buckets = [int(value) for name, value in values.items() if "embeddings" in name and "bucket" in name]
    assert buckets == sorted(buckets) and buckets[-1] > 0


def test_texts_of_waiting_requests_are_read_together_and_a_bad_one_fails_alone(monkeypatch):
    read, gate = [], threading.Event()

    def lengths(items):
        gate.wait(20)
        read.append(list(items))
        if "bad" in items:
            raise ValueError("bad")
        return np.array([len(item) for item in items]), [1] * len(items)

    async def scenario():
        queue = TextQueue(lengths)
        first = asyncio.create_task(queue.of(["one"]))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(queue.of(items)) for items in (["a", "bb"], ["bad"], ["ccc"])]
        await asyncio.sleep(0.05)
        monkeypatch.setattr(texts, "PLACES", 4)
        with pytest.raises(Full):
            await queue.of(["no place"])
        gate.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    first, two, bad, three = asyncio.run(scenario())
    assert [(rows.tolist(), tokens) for rows, tokens in (first, two, three)] == [
        ([3], 1),
        ([1, 2], 2),
        ([3], 1),
    ]
    assert isinstance(bad, ValueError)
    assert read == [["one"], ["a", "bb", "bad", "ccc"], ["a", "bb"], ["bad"], ["ccc"]]
