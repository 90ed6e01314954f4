"""Addresses and keys of servers: what hides a secret is refused, and a key is read in one way everywhere."""

import pytest

from stages.core.errors import UserError
from stages.core.servers import account, api_key
from stages.core.stage import valid
from stages.engines.with_openai import OpenaiEngine
from stages.knobs import BaselineKnobs, GenerateKnobs
from stages.teacher import connect, endpoint
from stages.teacher.knobs import CollectKnobs
from tests.helpers.tiny import tiny_tokenizer

KEY = "sk-test-0123"
URL = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["collect", "generate"])
def key_of_client(request, tmp_path):
    """The key that a stage would send."""
    if request.param == "collect":
        return lambda: _key_of_collect()
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    knobs = GenerateKnobs(engine="openai", base_url=URL, api_key_env="OPENAI_API_KEY", served_model="m")
    return lambda: OpenaiEngine(tmp_path / "model", knobs).client.api_key


def _key_of_collect() -> str:
    with connect.endpoint(CollectKnobs(base_url=URL)) as server:
        return server.api_key


@pytest.mark.parametrize("knobs", [CollectKnobs, GenerateKnobs, BaselineKnobs])
@pytest.mark.parametrize(
    "field, value",
    [
        ("base_url", "http://alice:hunter2@host/v1"),
        ("base_url", "http://hunter2@host/v1"),
        ("base_url", "https://host/v1?key=hunter2"),
        ("base_url", "https://host/v1#hunter2"),
        ("base_url", "ftp://host/hunter2"),
        ("base_url", "http://[::1/hunter2"),
        ("base_url", "http://host:hunter2/v1"),
        ("base_url", f"http://{'hunter2' * 20}.example/v1"),
        ("base_url", "http://host\x1b[2J/hunter2"),
        ("api_key_env", "sk-hunter2"),
    ],
)
def test_what_may_hold_a_secret_is_refused_and_not_shown(knobs, field, value):
    base = {"base": "b"} if knobs is BaselineKnobs else {}
    with pytest.raises(UserError, match=f"^p: {field}: expected ") as caught:
        valid(knobs, {**base, field: value}, "p")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        f"OPENAI_API_KEY={KEY}\r\n".encode(),
        f'\ufeffOPENAI_API_KEY="{KEY}"\n'.encode(),
        f"# café\nexport OPENAI_API_KEY = {KEY} \n".encode(),
    ],
)
def test_a_key_only_in_env(lines, tmp_path, key_of_client):
    (tmp_path / ".env").write_bytes(lines)
    assert key_of_client() == KEY


def test_a_key_in_the_environment_counts_first_and_ends_where_it_ends(tmp_path, monkeypatch, key_of_client):
    (tmp_path / ".env").write_text("OPENAI_API_KEY=another")
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    assert key_of_client() == KEY


@pytest.mark.parametrize(
    "lines, told",
    [
        (f"OPENAI_API_KEY={KEY}\r\n".encode("utf-16"), r"\.env.*UTF-8"),  # what PowerShell's > writes
        (f"OPENAI_API_KEY={KEY}\r\n".encode("utf-16-le"), r"\.env.*UTF-8"),
        (f"# café\nOPENAI_API_KEY={KEY}\n".encode("latin-1"), r"\.env, line 1: byte 0xe9 is not UTF-8"),
        (f'OPENAI_API_KEY="{KEY}\\n{KEY}"'.encode(), r"\.env, OPENAI_API_KEY: .*line break"),
        (f"OPENAI_API_KEY=“{KEY}”".encode(), r"\.env, OPENAI_API_KEY: .*smart quote"),
        (f"OTHER={KEY}".encode(), r"no key for .*set OPENAI_API_KEY in the environment or in \.env"),
        (None, r"no key for .*set OPENAI_API_KEY in the environment or in \.env"),
    ],
)
def test_an_env_file_that_cannot_be_read_is_named(lines, told, tmp_path, key_of_client):
    if lines is not None:
        (tmp_path / ".env").write_bytes(lines)
    with pytest.raises(UserError, match=told) as caught:
        key_of_client()
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
@pytest.mark.parametrize(
    "value", [f"{KEY}\n{KEY}", f"{KEY}\r{KEY}", f"“{KEY}”", f"{KEY}\u200b", f"{KEY}\x7f"]
)
def test_a_value_that_no_header_can_hold_is_named(name, value, monkeypatch, key_of_client):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}: holds a line break") as caught:
        key_of_client()
        endpoint.open_session(endpoint.Endpoint(URL, KEY, CollectKnobs()))
    assert KEY not in str(caught.value)


def test_the_account_is_read_as_the_key_is(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("OPENAI_PROJECT_ID=p-1\n")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1\n")
    assert account() == {"organization": "org-1", "project": "p-1"}
    with pytest.raises(UserError, match="no key"):
        api_key("OPENAI_API_KEY", URL)
