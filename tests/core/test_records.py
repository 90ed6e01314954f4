"""The types of rows have the fields of the rows that the stages write."""

from pathlib import Path

import pytest

from stages.convert import run as convert
from stages.core import layout, records
from stages.core.files import read_json, read_jsonl
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.prompt import run as prompt
from stages.teacher.collecting import collect
from stages.teacher.knobs import CollectKnobs
from tests.helpers.teacher_server import Teacher, write_corpus, write_prompts


def check(row: dict, of: type) -> None:
    assert of.__required_keys__ <= row.keys() <= of.__required_keys__ | of.__optional_keys__


@pytest.mark.parametrize("knobs", [{}, {"answer": "json", "n": 2, "logprobs": True}])
def test_rows_from_corpus_to_training_have_the_fields_of_their_types(tmp_path, monkeypatch, knobs):
    monkeypatch.chdir(tmp_path)
    write_corpus("d", 20)
    write_prompts("d")
    prompt("d", PromptKnobs(template=Path("prompts/d/teacher.md").as_posix(), **knobs))
    with Teacher().running() as url:
        collect("d", CollectKnobs(base_url=url, api_key_env="", min_accept=0, on_invalid="keep"))
    convert("d", ConvertKnobs(min_lines=1)) if not knobs else None
    check(read_jsonl(layout.corpus("d") / "documents.jsonl")[0], records.Document)
    for row in read_jsonl(layout.requests("d")):
        check(row, records.Request)
    for row in read_jsonl(layout.responses("d")):
        check(row, records.Response)
    if not knobs:
        check(read_json(layout.litgpt_data("d") / "train.json")[0], records.TrainingRow)
