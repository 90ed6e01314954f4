"""The embedded teacher speaks the protocol for real, over a socket, to the true client."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from demo.teacher import categories as category_rules
from demo.teacher import queries as rules
from demo.teacher.server import complete
from stages.collect import run as run_collect
from stages.core import layout
from stages.core.hashing import sha256_json
from stages.core.prompts import BracesTemplate, Template, messages, render
from stages.core.text import content_words
from stages.kinds.xc.parts import categories
from stages.kinds.xc.parts.categories import Categories
from stages.kinds.xc.parts.queries import Queries
from stages.knobs import PromptKnobs
from stages.prompt import run as run_prompt
from stages.teacher import structured
from stages.teacher.connect import embedded
from stages.teacher.knobs import CollectKnobs
from stages.teacher.structured import json_answer, tool_answer
from tests.helpers.teacher_server import Teacher, fake_answer, responses, write_corpus, write_prompts
from tests.helpers.workspace import ROOT
from tests.helpers.xc_fixture import wiki_made

PAGE_OF_SORT = "<document>\nTitle: numpy.sort\n\nReturn a sorted copy of an array.\n</document>"
ASKED = [{"role": "user", "content": PAGE_OF_SORT}]


ANSWER_HASH = "cac25017db4f6520852167362c4ddf4e1391098b115dd37629fc2413360c60e2"
UNFIT = (
    b'"response_format": {"type": "json_object"}',
    b'"response_format": "json"',
    b'"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": []}}}',
    b'"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": '
    b'{"a": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}}}}}}',
    b'"tools": [{}]',
    b'"tools": {"a": 1}',
    b'"tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]',
)


def post(url: str, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_completion_has_the_protocol_shape_and_honours_max_tokens():
    body = {"model": "embedded-teacher", "messages": [{"role": "user", "content": "use sort"}]}
    whole = complete(body, fake_answer)
    assert whole["choices"][0]["message"]["content"] == fake_answer(body["messages"])
    assert whole["choices"][0]["finish_reason"] == "stop" and whole["model"] == "embedded-teacher"
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}
    cut = complete({**body, "max_tokens": 7}, fake_answer)
    assert cut["choices"][0] == {**whole["choices"][0], "finish_reason": "length",
                                 "message": {**whole["choices"][0]["message"],
                                             "content": "- how to use sort\n- what"}}  # fmt: skip


def test_text_answers_stay_what_they_were():
    """Byte for byte: they are kept for ever under the hash of the request."""
    body = {"model": "embedded-rules-1", "messages": ASKED, "temperature": 0.7, "max_tokens": 256}
    assert sha256_json(complete(body, rules.answer)) == ANSWER_HASH
    more = {"n": 1, "seed": 7, "logprobs": True, "response_format": {"type": "text"}, "tools": None}
    again = complete({**body, **more}, rules.answer)
    assert {**again, "id": None} == {**complete(body, rules.answer), "id": None}


def test_choices_differ_and_the_first_is_the_plain_answer():
    body = {"model": "embedded", "messages": [{"role": "user", "content": "use sort"}]}
    plain, several = complete(body, fake_answer), complete({**body, "n": 5}, fake_answer)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3, 4]
    assert several["choices"][0] == plain["choices"][0]
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert len(set(texts)) == 5
    assert [len(text.splitlines()) for text in texts] == [3, 3, 3, 2, 2]
    assert several["usage"]["prompt_tokens"] == 2
    assert several["usage"]["completion_tokens"] == sum(len(text.split()) for text in texts)
    assert complete({**body, "n": 3}, lambda messages: "")["choices"][2]["message"]["content"] == ""


def test_structure_holds_the_lines_of_the_text():
    body = {"model": "embedded", "messages": [{"role": "user", "content": "use sort"}]}
    lines = fake_answer(body["messages"]).splitlines()
    written = complete({**body, "response_format": json_answer(Queries)}, fake_answer)["choices"][0]
    assert json.loads(written["message"]["content"]) == {"queries": lines}
    assert written["finish_reason"] == "stop"
    called = complete({**body, "tools": tool_answer(Queries)}, fake_answer)["choices"][0]
    (call,) = called["message"]["tool_calls"]
    assert called["message"]["content"] is None and called["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "Queries"
    assert json.loads(call["function"]["arguments"]) == {"queries": lines}
    for limit in ("max_tokens", "max_completion_tokens"):
        cut = complete({**body, "tools": tool_answer(Queries), limit: 3}, fake_answer)["choices"][0]
        assert cut["finish_reason"] == "length"
        assert len(cut["message"]["tool_calls"][0]["function"]["arguments"].split()) == 3


ARTICLE = {
    "id": "a",
    "title": "Orvela Lake",
    "text": "Orvela Lake is a freshwater lake in Norway, fed by snow. It feeds Mosk River of Norway.",
    "metadata": {},
}
LAKES = {
    "Freshwater lakes in Norway": ["Freshwater lakes", "Lakes in Norway", "Norway"],
    "Freshwater lakes": ["Lakes"],
    "Mosk River of Norway": ["Rivers", "Norway"],
}
PAGE = {
    "id": "b",
    "title": "Bicycle brakes",
    "text": "Rim brakes press pads on the rim. Disc brakes squeal in the rain. Adjust the cable each spring.",
    "metadata": {"url": "http://bikes.example/brakes"},
}


def asked(name: str, document: dict) -> list[dict]:
    template = Template(Path(__file__).parents[2] / "prompts" / name / "teacher.md")
    return messages(template, document)


def test_it_names_categories_where_immediate_ones_are_asked_for():
    text = rules.answer(asked("wikihierarchy", ARTICLE))
    assert categories.tree(text) == LAKES
    assert text.startswith("#### Immediate categories\nFreshwater lakes in Norway\nFreshwater lakes\n")
    known = {**ARTICLE, "metadata": {"queries": ["Lakes"]}}
    assert rules.answer(asked("wikihierarchy", known)) == text


@pytest.mark.parametrize(
    "title, text, expected",
    [
        ("Ada B", "Ada B (born 2 May 1959) is an Italian singer and actress.", "1959 births"),
        ("Sella", "Sella is one of the villages in Puttalam District.", "Villages in Puttalam District"),
        ("Falk Brewery", "Falk Brewery was a family brewery, once.", "Family breweries"),
        ("Preserve", "It is a  3,137 acre area of land in Lee County.", "Areas in Lee County"),
        ("Women of Elis", "They were the policewoman of Elis. ", "Policewomen in Elis"),
        ("Old Church", "Nothing is known.", "Old Church"),
        ("stub", "", "Stub"),
    ],
)
def test_rules_for_categories(title, text, expected):
    found = category_rules.tree(title, text)
    assert expected in found
    assert all(name not in above for name, above in found.items())
    assert categories.tree(category_rules.categories(title, text)) == found


def test_most_articles_get_categories_that_can_be_used():
    for row in wiki_made(60).metadata:
        article = {"id": "a", "title": row["title"], "text": row["content"], "metadata": {}}
        usable = categories.fit(categories.tree(rules.answer(asked("wikihierarchy", article))), article)
        assert len(categories.flat(usable)) >= (2 if row["content"].strip() else 1), row


def test_it_reads_the_text_of_a_web_page():
    lines = rules.answer(asked("orcas", PAGE)).splitlines()
    assert lines == [
        "bicycle brakes",
        "what is rim brakes press pads on the rim",
        "rim brakes press pads on the rim",
        "disc brakes squeal in the rain",
        "cable each spring",
    ]
    known = {**PAGE, "metadata": {**PAGE["metadata"], "queries": ["rim brakes"]}}
    assert rules.answer(asked("orcas", known)).splitlines() == lines


@pytest.mark.parametrize(
    "name, folder", [("orcas", "LF-ORCAS-800K"), ("wikihierarchy", "LF-WikiHierarchy-2M")]
)
def test_the_papers_prompts_get_the_same_answers(name, folder):
    path = Path(__file__).parents[3] / "shared/data/skim" / folder / "gpt4_prompt.md"
    if not path.is_file():
        pytest.skip("the SKIM prompts are not here")
    document = PAGE if name == "orcas" else ARTICLE
    theirs = [{"role": "user", "content": render(BracesTemplate(path), document)}]
    assert rules.answer(theirs) == rules.answer(asked(name, document))


def test_a_page_of_reference_may_speak_of_urls_and_categories():
    """What stands in the document is not what is asked for: older answers stay what they were."""
    text = "Return the immediate categories.\nURL of the page\n# Title\nNo\n## x begins\na b\n## x ends\nSee."
    page = {"id": "c", "title": "pandas.Categorical.codes", "text": text, "metadata": {}}
    assert rules.answer(asked("pydoc", page)) == "\n".join(rules.queries(page["title"], text))


def test_the_scaffolds_prompt_teaches_none_of_its_own_words():
    """The stand-in once took the instructions of a prompt without tags for the document."""
    text = "Send the parcel back within thirty days. The refund comes by bank transfer."
    page = {"id": "d", "title": "Returns desk", "text": text, "metadata": {}}
    prompt = asked("example", page)
    lines = rules.answer(prompt).splitlines()
    around = "\n".join(message["content"] for message in prompt).replace(text, "")
    own = set(content_words(around)) - set(content_words(f"{page['title']} {text}"))
    assert len(lines) >= 2 and len(own) > 15 and own.isdisjoint(content_words("\n".join(lines)))


def test_structure_holds_both_levels():
    body = {"model": "embedded", "messages": asked("wikihierarchy", ARTICLE)}
    written = complete({**body, "response_format": json_answer(Categories)}, rules.answer)["choices"][0]
    text = written["message"]["content"]
    assert categories.parse_answer(text, "json") == LAKES
    assert structured.problem_with({}, text, {"response_format": json_answer(Categories)}) is None
    called = complete({**body, "tools": tool_answer(Categories)}, rules.answer)["choices"][0]
    function = called["message"]["tool_calls"][0]["function"]
    assert function == {"name": "Categories", "arguments": text}
    lines = complete({**body, "response_format": json_answer(Categories)}, lambda _: "\tlost\none\n\ttwo")
    assert json.loads(lines["choices"][0]["message"]["content"])["categories"] == [
        {"name": "lost", "categories": []},
        {"name": "one", "categories": ["two"]},
    ]


def test_refuses_what_it_cannot_serve():
    with Teacher().running() as url:
        assert post(url, b'{"model": "gpt", "messages": []}')[0] == 404
        assert post(url, b'{"model": "embedded", "messages": []}')[0] == 400
        for field in (b'"n": 0', b'"n": 200', b'"stream": true', *UNFIT):
            assert (
                post(url, b'{"model": "embedded", "messages": [{"content": "a sort"}], %s}' % field)[0] == 400
            )
        assert post(url, b'{"model": "embedded", "messages": [{}]}')[0] == 400


def test_its_process_ends_with_its_parent():
    pytest.importorskip("demo.teacher.queries")
    with embedded() as url:
        with urllib.request.urlopen(f"{url}/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "embedded"
        status, body = post(url, json.dumps({"model": "embedded-teacher", "messages": ASKED}).encode())
        assert status == 200 and body["choices"][0]["message"]["content"].strip()
        for bare in ("Write queries.\nTitle: numpy.sort", "<document>a page", "a page</document>", ""):
            asked = {"model": "embedded", "messages": [{"role": "user", "content": bare}]}
            status, body = post(url, json.dumps(asked).encode())
            assert status == 400 and body["error"]["message"].startswith("no <document> tags in the prompt: ")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/models", timeout=10)
    script = (
        "import os, signal; from stages.teacher.connect import embedded\n"
        "with embedded() as url:\n    print(url, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    url = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/models", timeout=10)
            time.sleep(0.05)
        except urllib.error.URLError:
            return
    raise AssertionError("the embedded teacher outlived its killed parent")


def test_collect_starts_it_by_itself_and_needs_no_key(tmp_path, monkeypatch):
    pytest.importorskip("demo.teacher.queries")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_corpus("d", 20)
    write_prompts("d", teacher="<document>\n{{ document.title }}\n{{ document.text }}\n</document>")
    run_prompt("d", PromptKnobs(template=str(layout.prompt("d", "teacher"))))
    run_collect("d", CollectKnobs(min_accept=0.0))
    assert {row["outcome"] for row in responses("d")} <= {"ok", "blank"} and len(responses("d")) == 20
    assert layout.STORE.is_file()


def test_the_product_never_imports_the_stand_in():
    files = sorted((ROOT / "stages").rglob("*.py"))
    assert len(files) > 50
    assert not [
        path for path in files if re.search(r"^\s*(?:from|import) demo\b", path.read_text("utf-8"), re.M)
    ]
