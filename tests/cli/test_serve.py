"""`jinfer serve`: where its options come from, what it refuses, and its beginning and end as a process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jax
import pytest

from jinfer import cli
from jinfer.cli import serve as serve_command
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.conftest import COMPILES_FAST

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 240


@pytest.fixture
def chosen(monkeypatch) -> list:
    """What a server would have been started with."""
    import jinfer.server.serve

    configs: list = []
    monkeypatch.setattr(jinfer.server.serve, "serve", lambda config: configs.append(config) or 0)
    return configs


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    return str(path)


def refused(capsys, *words: str) -> str:
    """The one line of an error."""
    assert cli.main(["serve", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jinfer: error: ")
    return line


def test_the_defaults_listen_on_this_machine_alone(chosen):
    assert cli.main(["serve"]) == 0
    (config,) = chosen
    assert (config.options.host, config.options.port, config.options.api_key) == ("127.0.0.1", 8000, ())
    assert config.engine_options["progress"] is False


def test_a_file_gives_options_by_name_and_the_command_line_wins(tmp_path, chosen):
    text = "port: 1234\nserved-model-name: [a, b]\nmax_num_seqs: 3\nmax-body-bytes: 1000\napi_key: k\n"
    assert cli.main(["serve", "--config", write(tmp_path, text), "--port", "0", "--num-pages", "50"]) == 0
    (config,) = chosen
    assert config.options.port == 0
    assert config.options.served_model_name == ("a", "b")
    assert config.options.api_key == ("k",)
    assert config.limits.max_body_bytes == 1000
    assert (config.engine_options["max_num_seqs"], config.engine_options["num_pages"]) == (3, 50)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("port: [", "is not valid YAML"),
        ("- a\n- b\n", "must map names of options"),
        ("prot: 1\n", "unknown option 'prot'; the options are .*port"),
        ("port: '8000'\n", "port='8000' must be an integer"),
        ("port: 70000\n", "port=70000 must be from 0 to 65535"),
        ("host: 5\n", "host=5 must be a text"),
        ("api_key: [5]\n", "api_key=.* must be a list of texts"),
        ("page_size: 0\n", "page_size=0 must be an integer"),
        ("log_format: xml\n", "log_format='xml' must be one of"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, capsys, chosen, text, match):
    assert re.search(match, refused(capsys, "--config", write(tmp_path, text)))
    assert chosen == []


def test_a_missing_file_is_named(capsys):
    assert "nowhere.yaml cannot be read" in refused(capsys, "--config", "nowhere.yaml")


def test_a_missing_extra_tells_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(serve_command, "EXTRA", ("fastapi", "a_package_that_is_not_there"))
    assert refused(capsys).endswith('(a_package_that_is_not_there): pip install "jinfer[serve]"')


def test_a_port_in_use_is_refused_before_an_engine_starts(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} of 127.0.0.1 cannot be had" in refused(capsys, "--port", str(port))


def test_an_address_of_another_machine_is_refused(capsys):
    assert "192.0.2.1" in refused(capsys, "--host", "192.0.2.1")


class Process:
    """The command with a tiny model, its stderr read until the banner has come."""

    def __init__(self, directory: Path) -> None:
        engine = {name: value for name, value in TINY_ENGINE.items() if name != "progress"}
        options = {"model": directory, "served_model_name": "tiny", "port": 0, "grace_s": 60, **engine}
        words = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jinfer", "serve", *words, "--log-format", "json"],
            cwd=REPOSITORY,
            env={**os.environ, **COMPILES_FAST, **self._environment()},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        self.banner = ""
        self.url = ""

    def wait_for_banner(self) -> None:
        for line in self.stderr:
            self.banner += line
            if found := re.search(r"address +(http://\S+)/v1", line):
                self.url = found[1]
                return
        raise AssertionError(f"no banner:\n{self.banner}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stderr.close()

    @staticmethod
    def _environment() -> dict[str, str]:
        """The same compiled steps as this process has, and no lines of XLA between those of the server."""
        return {
            "TF_CPP_MIN_LOG_LEVEL": "1",  # JAX's own
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Iterator[Process]:
    serving = Process(write_checkpoint(tmp_path_factory.mktemp("tiny")))
    try:
        serving.wait_for_banner()
        yield serving
    finally:
        serving.close()


def test_a_process_serves_and_ends_on_sigterm_when_its_streams_have(serving):
    assert "tiny (LlamaForCausalLM, float32)" in serving.banner
    before = [json.loads(line) for line in serving.banner.splitlines()]
    assert any(entry["message"].startswith("ready in ") for entry in before), "the engine's lines, too"
    body = {"prompt": [5, 6, 7], "max_tokens": 20, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", serving.url + "/v1/completions", json=body, timeout=WAIT_S) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        serving.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert len(rest) == 20
    assert serving.process.wait(WAIT_S) == 0
    log = [json.loads(line) for line in serving.stderr.read().splitlines()]
    assert any("shutting down" in entry["message"] for entry in log)
