"""One engine and one server for all tests of the HTTP front: compiling takes longer than all of them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

import jinfer
from jinfer.config import EngineConfig
from jinfer.engine.loop import EngineLoop
from jinfer.server.local_engine import LocalEngine
from jinfer.server.model_info import model_info
from jinfer.server.options import ServerOptions
from jinfer.startup import EngineParts, start_engine
from tests.checkpoints import DEMO_ENGINE
from tests.server.http.playing_engine import PlayingEngine, write_byte_tokenizer
from tests.server.http.running_server import RunningServer, running_server
from tests.server.http.scripted_engine import WAIT_S

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MODEL = "stories"


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, with a chat template."""
    directory = tmp_path_factory.mktemp("model") / "stories"
    shutil.copytree(Path(jinfer.__file__).parent / "demo_model", directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="session")
def engine_parts(model_directory: Path) -> EngineParts:
    return start_engine(str(model_directory), EngineConfig.from_options(DEMO_ENGINE))


@pytest.fixture(scope="session")
def engine(engine_parts: EngineParts) -> Iterator[LocalEngine]:
    loop = EngineLoop(engine_parts.engine, engine_parts.give_back)
    loop.start()
    info = model_info(engine_parts)
    yield LocalEngine(loop, engine_parts.engine, info, engine_parts.requests.rules)
    loop.close()


@pytest.fixture(scope="session")
def served(engine: LocalEngine, model_directory: Path) -> Iterator[RunningServer]:
    options = ServerOptions(model=str(model_directory), served_model_name=(MODEL, "other-name"), grace_s=0)
    with running_server(engine, options) as running:
        yield running


@pytest.fixture
def client(served: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(served: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=WAIT_S) as client:
        yield client


@pytest.fixture(scope="session")
def playing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlayingEngine, str]]:
    directory = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(directory)
    engine = PlayingEngine(directory)
    with running_server(engine, ServerOptions(served_model_name=(MODEL,), grace_s=0)) as running:
        yield engine, running.url


@pytest.fixture
def player(playing_server: tuple[PlayingEngine, str]) -> PlayingEngine:
    """The engine behind `played`, which plays what a test tells it."""
    return playing_server[0]


@pytest.fixture
def played_url(playing_server: tuple[PlayingEngine, str]) -> str:
    return playing_server[1]


@pytest.fixture
def played(played_url: str) -> Iterator[openai.OpenAI]:
    """A client of a model whose format has tool calls and reasoning."""
    with openai.OpenAI(base_url=played_url + "/v1", api_key="none", max_retries=0) as client:
        yield client
