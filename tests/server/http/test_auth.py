"""The key guards everything but /health, and a browser's question before it has one."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from jinfer.server.assembly import api_keys
from jinfer.server.options import ServerOptions
from tests.server.http.running_server import RunningServer, running_server
from tests.server.http.scripted_engine import WAIT_S, ScriptedEngine

KEYS = ("first-key", "second-key")
ORIGIN = "https://chat.example"


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    options = ServerOptions(api_key=KEYS, allowed_origins=(ORIGIN,), grace_s=0)
    with running_server(ScriptedEngine(), options) as running:
        yield running


@pytest.fixture(scope="module")
def http(guarded: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(timeout=WAIT_S) as client:
        yield client


GUARDED = [
    ("GET", "/v1/models"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/tokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("GET", "/health/"),
    ("GET", "//health"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic Zmlyc3Qta2V5"},
        {"authorization": "Bearer first-ke"},
        {"authorization": "first-key"},
        {"x-api-key": "wrong"},
        {"authorization": b"Bearer \xff\xfe"},
    ],
    ids=str,
)
def test_without_a_right_key_nothing_is_said(guarded, http, method, path, headers):
    answer = http.request(method, guarded.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded, http, key):
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
        {"x-api-key": key},
    ):
        assert http.get(guarded.url + "/v1/models", headers=headers).status_code == 200


def test_health_needs_no_key(guarded, http):
    assert http.get(guarded.url + "/health").status_code == 200


def test_the_page_needs_no_key_and_what_is_none_of_its_files_does(guarded, http):
    for path in ("/", "/web/main.js"):
        assert http.get(guarded.url + path).status_code == 200
    for path in (
        "/web/nothing.js",
        "/web/",
        "/web/main.js/",
        "//",
        "/web/../v1/models",
        "/web/%2e%2e/metrics",
    ):
        assert http.get(guarded.url + path).status_code == 401


def test_openais_client_sees_an_authentication_error(guarded):
    client = openai.OpenAI(base_url=guarded.url + "/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_browser_is_told_which_origins_may_call(guarded, http):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type"
    answer = http.options(guarded.url + "/v1/chat/completions", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    other = http.options(guarded.url + "/v1/models", headers={**asked, "origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers


def test_no_origin_may_call_unless_it_was_asked_for():
    with running_server(ScriptedEngine()) as running:
        answer = httpx.get(running.url + "/v1/models", headers={"origin": ORIGIN}, timeout=WAIT_S)
        assert "access-control-allow-origin" not in answer.headers


def test_the_key_may_come_from_the_environment():
    environment = {"JINFER_API_KEY": "from-there"}
    assert api_keys(ServerOptions(), environment) == ("from-there",)
    assert api_keys(ServerOptions(api_key=("given",)), environment) == ("given",)
    assert api_keys(ServerOptions(), {"JINFER_API_KEY": ""}) == ()
