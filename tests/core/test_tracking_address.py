"""The address of the tracking store in messages: never with what logs in."""

from base64 import b64encode
from urllib.parse import unquote

import pytest

from stages.commands.register import cli
from stages.core import tracking

HOST = "10.1.2.3:5000"
LOGINS = [
    "alice:hunter2",
    "alice:hun/t@er2",
    "al%40ice:hun%2Fter2",
    ":hunter2",
    "hunter2",
    "a:b:c?x",
    "alice:hün ter2",
]
SCHEMES = ["http://", "https://", "postgresql://", "mysql+pymysql://", "htp://", ""]


@pytest.fixture
def spoken(monkeypatch):
    """What is said of an error under an address."""

    def blanked(uri: str, message: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return f"{tracking.address()} {tracking.blanked(message)}"

    return blanked


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("login", LOGINS)
def test_no_form_of_a_login_is_shown(spoken, scheme, login):
    uri = f"{scheme}{login}@{HOST}/db"
    password = login.partition(":")[2] or login
    encoded = b64encode(unquote(login).encode()).decode()
    said = spoken(uri, f"cannot reach {uri!r} ({encoded}), {uri}: {unquote(password)} is wrong\nmore {uri}")
    assert said.startswith(f"{scheme}{HOST}/db") and said.endswith(" is wrong")
    assert not [secret for secret in (uri, login, password, unquote(password), encoded) if secret in said]


def test_what_stands_after_the_question_mark_is_blanked_too(spoken):
    said = spoken("postgresql://host/db?user=alice&password=hunter2", "FATAL: alice failed with hunter2")
    assert said == "postgresql://host/db FATAL: *** failed with ***"


def test_a_login_in_the_environment_is_blanked(spoken, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-123")
    assert spoken("http://host", "Bearer tok-123 is wrong") == "http://host Bearer *** is wrong"


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:////home/me@work/mlflow.db", "http://host:5000", "mlruns"]
)
def test_an_address_without_a_login_stays_what_it_is(spoken, uri):
    assert spoken(uri, f"no {uri} and a database") == f"{uri} no {uri} and a database"


def test_what_mlflow_says_to_register_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text("stages: {a: {outs: [{path: models/d/hf, md5: aa.dir}]}}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://alice:hunter2@127.0.0.1:9/db")
    with pytest.raises(SystemExit) as end:
        cli(["d"], standalone_mode=False)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(
        "error: MLflow at postgresql://127.0.0.1:9/db: [Errno 111]"
    )
