"""Two replicas of the shipped model under Ray Serve, on this machine's CPUs."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jax
import openai
import pytest
import yaml

pytest.importorskip("ray", reason="replicas under Ray need it; install jinfer[ray]")
with warnings.catch_warnings():  # of Ray's own use of pydantic
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`", DeprecationWarning)
    from jinfer.integrations.ray_serve import build

import jinfer
from jinfer import ConfigError
from tests.conftest import COMPILES_FAST

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 300  # nothing takes so long that does not hang
MODEL = "stories"
ARGUMENTS = {
    "model": str(Path(jinfer.__file__).parent / "demo_model"),
    "served-model-name": MODEL,
    "num_replicas": 2,
    "num_gpus": 0,
    "session_affinity": True,
    "grace_s": 0,
    "dtype": "float32",
    "max_num_seqs": 1,
    "max_num_batched_tokens": 16,
    "num_pages": 64,
}
SESSIONS = [f"session-{number}" for number in range(40)]  # all of one replica's once in 10**12 times


class Cluster:
    """`serve run` of a configuration file, with Ray and all processes that this starts."""

    def __init__(self, directory: Path, ray_directory: str) -> None:
        self.mark = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [
                {
                    "name": "stories",
                    "route_prefix": "/",
                    "import_path": "jinfer.integrations.ray_serve:build",
                    "args": ARGUMENTS,
                    "deployments": [{"name": "jinfer", "health_check_period_s": 1}],
                }
            ],
        }
        path = directory / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        self.log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray.serve.scripts", "run", str(path)],
            cwd=REPOSITORY,
            env={**os.environ, **COMPILES_FAST, **self._environment(ray_directory)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _environment(self, ray_directory: str) -> dict[str, str]:
        return {
            "JINFER_TEST_MARK": self.mark,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one into the home directory
            "RAY_TMPDIR": ray_directory,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def engines(self) -> dict[int, int]:
        """The processes of engines, and of the replica that each belongs to."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command = (directory / "cmdline").read_bytes()
                environment = (directory / "environ").read_bytes()
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
            if b"jinfer.server.engine_process" in command and self.mark.encode() in environment:
                found[int(directory.name)] = parent
        return found

    def num_answered(self, session: str) -> int:
        """Completions of the replica that a session belongs to."""
        text = httpx.get(f"{self.url}/metrics", headers={"x-session-id": session}, timeout=WAIT_S).text
        lines = [line for line in text.splitlines() if line.startswith("jinfer:request_success_total")]
        return sum(int(float(line.split()[-1])) for line in lines)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Waits for what another process brings about."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def is_answering(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=WAIT_S).status_code == 200
        except httpx.TransportError:
            return False

    def is_shared(self) -> bool:
        """True when sessions are spread over two replicas: one has answered what the other has not."""
        complete(self, SESSIONS[0])
        return len(set(map(self.num_answered, SESSIONS))) == 2

    def output(self) -> str:
        return Path(self.log.name).read_text()

    def end(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(WAIT_S)

    def kill(self) -> None:
        """Ends what is left of all processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in self.engines():
            os.kill(process, signal.SIGKILL)
        self.log.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="r") as ray_directory:  # sockets' paths must be short
        cluster = Cluster(tmp_path, ray_directory)
        try:
            cluster.wait_for(cluster.is_answering)
            cluster.wait_for(cluster.is_shared)
            yield cluster
        finally:
            cluster.kill()


def complete(cluster: Cluster, session: str, *, stream: bool = False) -> str:
    headers = {"x-session-id": session}
    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, default_headers=headers
    ) as client:
        options = {"model": MODEL, "prompt": "Once upon", "max_tokens": 8, "temperature": 0.0}
        if not stream:
            return client.completions.create(**options).choices[0].text
        chunks = list(client.completions.create(**options, stream=True))
        assert len(chunks) == 8
        return "".join(chunk.choices[0].text for chunk in chunks)


def check_that_both_answer_alike(cluster: Cluster) -> None:
    first = SESSIONS[0]
    num_first = cluster.num_answered(first)
    second = next(session for session in SESSIONS if cluster.num_answered(session) != num_first)
    num_second = cluster.num_answered(second)
    text = complete(cluster, first)
    assert complete(cluster, second) == complete(cluster, second, stream=True) == text
    assert cluster.num_answered(first) == num_first + 1
    assert cluster.num_answered(second) == num_second + 2


def check_that_a_killed_replica_is_replaced(cluster: Cluster) -> None:
    (engine, replica), (other, _) = sorted(cluster.engines().items())
    os.kill(replica, signal.SIGKILL)
    cluster.wait_for(lambda: engine not in cluster.engines())
    cluster.wait_for(lambda: len(cluster.engines()) == 2)
    assert other in cluster.engines()


def check_that_a_replica_whose_engine_died_is_replaced(cluster: Cluster) -> None:
    (engine, replica), _ = sorted(cluster.engines().items())
    os.kill(engine, signal.SIGKILL)
    cluster.wait_for(lambda: not Path(f"/proc/{replica}").exists())
    cluster.wait_for(lambda: len(cluster.engines()) == 2)


def test_two_replicas_answer_and_are_replaced_when_they_die(cluster):
    """In one test, because a cluster takes long to start."""
    check_that_both_answer_alike(cluster)
    check_that_a_killed_replica_is_replaced(cluster)
    check_that_a_replica_whose_engine_died_is_replaced(cluster)
    cluster.end()
    assert cluster.engines() == {}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": "m", "prot": 1}, "unknown option 'prot'; the options are .*port"),
        ({"port": 8000}, "port is Ray's to choose; leave it out"),
        ({"num_replicas": "0"}, "num_replicas=0 must be an integer from 1"),
        ({"num_gpus": -1}, "num_gpus=-1 must be an integer from 0"),
        ({"max-num-seqs": "no"}, "max_num_seqs=False must be an integer"),
    ],
)
def test_a_bad_option_is_refused_before_a_replica_starts(arguments, match):
    with pytest.raises(ConfigError, match=match):
        build(arguments)
