"""The kind of task "skills": answers as calls, held to the known ones, and spelt as in the request."""

import json

from stages.convert import run as convert
from stages.core import layout
from stages.core.files import write_jsonl
from stages.kinds.skills.parts import task as kind
from stages.kinds.skills.parts.calls import span
from stages.knobs import ConvertKnobs


def test_the_kind_reads_what_models_write():
    assert kind.parse('```\n### Assistant: weather(location="Rome")\n```\nthat is it') == [
        'weather(location="Rome")'
    ]
    known = {"metadata": {"call": 'weather(location="Rome")'}}
    assert kind.fit(['weather(location="rome ")'], known) == ['weather(location="Rome")']
    assert kind.fit(['weather(location="Bern")'], known) == []
    assert kind.fit(["weather()", "other()"], {"metadata": {}}) == []
    assert kind.fit(["weather()"], {"metadata": {}}) == ["weather()"]
    assert kind.fit(['weather(location="")'], {"metadata": {"call": "weather()"}}) == ["weather()"]
    known = {"metadata": {"call": 'timer(duration="1 minute")', "defaults": {"volume": 5}}}
    assert kind.fit(['timer(duration="1 minute", volume=5)'], known) == ['timer(duration="1 minute")']
    for volume in ("6", "5.0", "True"):
        assert kind.fit([f'timer(duration="1 minute", volume={volume})'], known) == []
    call = [{"arguments": {"examples": [{"user": "hi", "assistant": "other()"}]}}]
    assert kind.parse_answer(json.dumps(call), "tool") == ["other()"]
    assert kind.parse_answer("weather()\nweather(loc", cut=True) == ["weather()"]


def test_a_value_is_found_in_a_request_whatever_its_case():
    assert span("strasse 3", "die Straße 3!") == (4, 12)


def test_convert_tells_which_skill_the_student_cannot_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = {"a": "weather()", "b": "weather()", "c": "other()", "d": "math(question='1')"}
    splits = dict.fromkeys("abc", "train") | {"d": "test"}
    documents = [
        {
            "id": name,
            "title": "",
            "text": name,
            "metadata": {"call": call, "skill": call.partition("(")[0]},
            "split": splits[name],
        }
        for name, call in known.items()
    ]
    answers = {"a": "weather()", "b": "other()", "c": "weather()", "d": "other()"}
    rows = [
        {"id": name, "document_id": name, "accepted": True, "outcome": "ok", "response": call}
        for name, call in answers.items()
    ]
    write_jsonl(layout.corpus("d") / "documents.jsonl", documents)
    write_jsonl(layout.responses("d"), rows)
    layout.prompt("d", "student").parent.mkdir(parents=True)
    layout.prompt("d", "student").write_text("{{ document.text }}")
    convert("d", ConvertKnobs(task="skills", min_lines=1))
    told = capsys.readouterr().err
    assert "no answer about 'other' can be used" in told
    assert "weather" not in told and "math" not in told
