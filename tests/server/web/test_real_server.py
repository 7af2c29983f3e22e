"""The page against jinfer's own server, whose engine says what the test wrote down."""

import dataclasses
import shutil

import pytest
from selenium.webdriver.common.keys import Keys

from jinfer.requests.request import FinishReason
from jinfer.server.options import ServerOptions
from jinfer.text.tokenizer import Tokenizer
from tests.server.http.running_server import running_server
from tests.server.http.scripted_engine import DEMO_MODEL, INFO, ScriptedEngine

ANSWER = ".message:last-child"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
OPTIONS = ServerOptions(served_model_name=("stories",), grace_s=0)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_directory(DEMO_MODEL)


@pytest.fixture
def chat_engine(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    engine = ScriptedEngine()
    engine.info = dataclasses.replace(INFO, tokenizer_directory=str(directory))
    return engine


def test_a_text_is_continued(browser, tokenizer):
    engine = ScriptedEngine()
    with running_server(engine, OPTIONS) as server:
        browser.open_ready(server.url + "/")
        assert browser.text("#model") == "stories"
        browser.type("Once upon a time", Keys.ENTER)
        queue = engine.next_queue()
        assert tokenizer.decode(queue.requests[0].prompt_token_ids) == "Once upon a time"
        assert queue.requests[0].params.max_tokens == 256
        engine.emit(queue, tokenizer.encode(" there was a girl.", False), FinishReason.STOP)
        browser.wait_text(f"{ANSWER} .plain", "there was a girl.")
        browser.wait_text(f"{ANSWER} .stats", "tokens")
        browser.wait_text("[data-chart=running]", "0")


def test_a_chat_is_answered_with_a_system_prompt(browser, chat_engine, tokenizer):
    with running_server(chat_engine, OPTIONS) as server:
        browser.open_ready(server.url + "/")
        browser.fill("[name=system]", "Be kind.")
        browser.fill("[name=temperature]", "0")
        browser.fill("#prompt", "Hello")
        browser.type(Keys.ENTER)
        queue = chat_engine.next_queue()
        prompt = tokenizer.decode(queue.requests[0].prompt_token_ids)
        assert prompt == "system: Be kind.\nuser: Hello\n"
        assert queue.requests[0].params.temperature == 0
        chat_engine.emit(queue, tokenizer.encode("A **bold** word.", False), FinishReason.STOP)
        browser.wait_text(f"{ANSWER} strong", "bold")
        browser.wait(lambda: browser.element("#send").is_displayed())


def test_stopping_ends_the_request_in_the_engine(browser, chat_engine, tokenizer):
    with running_server(chat_engine, OPTIONS) as server:
        browser.open_ready(server.url + "/")
        browser.type("Hello", Keys.ENTER)
        queue = chat_engine.next_queue()
        chat_engine.emit(queue, tokenizer.encode("A beginning", False))
        browser.wait_text(ANSWER, "A begin")
        browser.type(Keys.ESCAPE)
        chat_engine.wait_abandoned(queue)
        browser.wait_text(f"{ANSWER} .stats", "stopped")


def test_the_page_is_open_and_asks_for_the_key_of_the_rest(browser, chat_engine):
    options = dataclasses.replace(OPTIONS, api_key=("the-key",))
    with running_server(chat_engine, options) as server:
        browser.open(server.url + "/")
        browser.element("#key-dialog[open]")
        browser.type("the-key", Keys.ENTER)
        browser.wait_ready()
        browser.wait_text("[data-chart=running]", "0")


def test_an_invalid_value_is_refused_with_the_servers_words(browser, chat_engine):
    with running_server(chat_engine, OPTIONS) as server:
        browser.open_ready(server.url + "/")
        browser.fill("[name=top_p]", "0")  # the form's rule has its bound within it
        browser.fill("#prompt", "Hello")
        browser.type(Keys.ENTER)
        browser.wait_text(".error", "top_p")
