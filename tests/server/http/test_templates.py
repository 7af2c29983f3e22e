"""Templates that are never done, or grow, over messages that only one client sends."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jinfer.server import template_workers
from tests.server.http.playing_engine import TEMPLATE, PlayingEngine, write_byte_tokenizer
from tests.server.http.running_server import RunningServer, running_server
from tests.server.http.scripted_engine import WAIT_S
from tests.server.http.test_lifecycle import in_thread

BOMBS = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "grow": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
}
WORDS = {"loop": "takes more than 2 s of CPU", "grow": "takes more than 512 MiB of memory"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory: Path = tmp_path_factory.mktemp("bombs")
    write_byte_tokenizer(directory)
    bombs = [f"{{% if messages[0].content == '{name}' %}}{bomb}{{% endif %}}" for name, bomb in BOMBS.items()]
    (directory / "chat_template.jinja").write_text(TEMPLATE + "".join(bombs))
    engine = PlayingEngine(directory)
    engine.play("Yes.<|im_end|>")
    with running_server(engine) as running:
        yield running


def ask(running: RunningServer, text: str, path: str = "/v1/chat/completions") -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 20}
    return httpx.post(running.url + path, json=body, timeout=WAIT_S)


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_is_never_done_is_400_and_others_are_answered_meanwhile(running, name):
    bomb = in_thread(lambda: ask(running, name))
    for _ in range(20):
        answer = ask(running, "hello")
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "Yes."
    refused = bomb()
    assert refused.status_code == 400
    assert WORDS[name] in refused.json()["error"]["message"]
    assert ask(running, "hello").status_code == 200


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages", "/v1/messages/count_tokens"])
def test_every_endpoint_with_messages_is_bounded(running, path):
    assert ask(running, "hello", path).status_code == 200
    assert ask(running, "grow", path).status_code == 400


def test_too_many_conversations_that_wait_are_sent_away(running, monkeypatch):
    monkeypatch.setattr(template_workers, "MAX_WAITING", 0)
    refused = ask(running, "hello")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "conversations wait for their template" in refused.json()["error"]["message"]
