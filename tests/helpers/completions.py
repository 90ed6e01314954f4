"""A project whose student is a completions server in this process: generation without loading a model."""

import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stages.core import files

WORDS = "sort values along axis of an array plot line histogram with colors read csv file".split()


class Completions:
    """Answers (prompt, seed) with two lines that are a hash of both; counts how often each was asked."""

    def __init__(self):
        self.url, self.asked, self.delay = "", Counter(), 0.0

    def reply(self, body: dict) -> dict:
        self.asked[body["prompt"], body["seed"]] += 1
        time.sleep(self.delay)
        digest = hashlib.sha256(f"{body['prompt']}{body['seed']}".encode()).hexdigest()
        text = f"how to {digest[:6]} arrays\nhow to {digest[6:12]} files"
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        return {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]} | {
            "usage": usage
        }


@contextmanager
def answering(reply):
    """The base URL of a local server which answers each posted JSON body with `reply(body)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(reply(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


@contextmanager
def completions():
    student = Completions()
    with answering(student.reply) as student.url:
        yield student


def decoding(student: Completions) -> dict:
    return {
        "engine": "openai",
        "base_url": student.url,
        "served_model": "m",
        "prompt_as": "text",
        "max_new_tokens": 8,
        "temperature": 1.0,
        "batch_size": 2,
        "n": 2,
    }


def make_project(documents: int) -> None:
    """In the working directory, the dataset d: a student (whose weights do not count), corpus and prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Path("models/d/hf")
    model.mkdir(parents=True)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<e>"], show_progress=False)
    core.train_from_iterator(WORDS, trainer)
    core.save(str(model / "tokenizer.json"))
    files.write_json(model / "config.json", {"max_position_embeddings": 256, "eos_token_id": 0})
    (model / "model.safetensors").write_bytes(b"weights")
    files.write_manifest(model, "export", {})
    files.write_text(Path("prompts/d/student.md"), "{{ document.title }} {{ document.text }}")
    write_corpus(documents)


def write_corpus(documents: int) -> None:
    rows = [
        {
            "id": f"doc-{number:03d}",
            "title": f"page {number}",
            "text": " ".join(WORDS[(number + i) % len(WORDS)] for i in range(4)),
            "metadata": {},
            "split": "test" if number % 5 == 0 else "train",
        }
        for number in range(documents)
    ]
    with files.atomic_directory(Path("data/d/corpus"), "corpus") as directory:
        files.write_jsonl(directory / "documents.jsonl", rows)
