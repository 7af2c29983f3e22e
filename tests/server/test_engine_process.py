"""The real engine process with the model that ships: its tokens are those of LLM, and its death is
noticed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from jinfer import (
    LLM,
    CheckpointError,
    EngineError,
    FinishReason,
    RequestError,
    SamplingParams,
    StructuredOutputs,
)
from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.requests.outputs import RequestOutput
from jinfer.requests.prompts import as_prompts
from jinfer.requests.request_factory import RequestFactory
from jinfer.server.engine_client import EngineClient
from jinfer.server.supervisor import RestartPolicy, Supervisor
from jinfer.server.wire import EngineSpec
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import DEMO_ENGINE, TINY_ENGINE, write_checkpoint
from tests.conftest import COMPILES_FAST
from tests.server.fakes import outputs_of

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 240  # a start compiles, on a machine that may do other things


class Runner:
    """An event loop that several tests share, with what lives in it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, coroutine) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(coroutine, SECONDS)

        return self._runner.run(bounded())

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """What this process was told by calls, for its children: where compiled steps are, and to hurry."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in COMPILES_FAST.items():
            patch.setenv(name, value)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def client(runner, environment) -> Iterator[EngineClient]:
    lines: list[str] = []
    spec = EngineSpec(options=DEMO_ENGINE)
    client = runner.run(EngineClient.start(spec, on_progress=lines.append))
    assert any("ready in" in line for line in lines)
    yield client
    runner.run(client.close())


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**DEMO_ENGINE) as llm:
        yield llm


def factory_of(client: EngineClient | Supervisor) -> RequestFactory:
    info = client.info
    assert info.tokenizer_directory is not None
    return RequestFactory(
        tokenizer=Tokenizer.from_directory(Path(info.tokenizer_directory)),
        vocab_size=info.vocab_size,
        eos_token_ids=frozenset(info.eos_token_ids),
        sampling_defaults=info.sampling_defaults,
        limits=info.limits,
        makes_maskers=False,
    )


async def submitted(client: EngineClient | Supervisor, prompts: Any, **params: Any) -> AsyncOutputQueue:
    listed = as_prompts(prompts)
    requests = factory_of(client).create_all(listed, [SamplingParams(**params)] * len(listed))
    queue = AsyncOutputQueue(requests, Waker(asyncio.get_running_loop()), deadline=None)
    client.submit(queue)
    return queue


async def completed(client: EngineClient | Supervisor, prompts: Any, **params: Any) -> list[RequestOutput]:
    queue = await submitted(client, prompts, **params)
    await outputs_of(queue)
    return [RequestOutput.of(request) for request in queue.requests]


async def idle(client: EngineClient) -> None:
    while (stats := client.stats()).num_running or stats.num_waiting or stats.num_used_pages:
        await client.heartbeat()


def told(outputs: list[RequestOutput]) -> list[Any]:
    return [
        (c.text, c.token_ids, c.finish_reason, c.stop_reason, c.logprobs, o.prompt_logprobs)
        for o in outputs
        for c in o.outputs
    ]


PROMPTS = ["Once upon a time", [5, 6, 7], "A very long day " * 3]
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "max_tokens": 16},
    "seeded": {"temperature": 1.0, "seed": 2**64 - 1, "max_tokens": 16},
    "several": {"n": 3, "seed": 3, "max_tokens": 6},
    "filters": {"seed": 5, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "max_tokens": 12},
    "logprobs": {"temperature": 0, "max_tokens": 8, "logprobs": 3},
    "stop strings": {"temperature": 0, "max_tokens": 40, "stop": [" the", "."]},
    "a stop string in the output": {
        "temperature": 0,
        "max_tokens": 40,
        "stop": " was",
        "include_stop_str_in_output": True,
    },
    "stop ids": {"seed": 1, "max_tokens": 40, "stop_token_ids": [13, 14, 15]},
    "min_tokens": {"seed": 1, "max_tokens": 20, "min_tokens": 15, "stop": "e"},
    "a salt": {"temperature": 0, "max_tokens": 6, "cache_salt": "tenant"},
    "rules of logits": {
        "seed": 4,
        "max_tokens": 20,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "logit_bias": {13: -100, 40: 3},
        "bad_words": ["was", "very"],
    },
    "a structure": {
        "seed": 4,
        "max_tokens": 30,
        "structured_outputs": StructuredOutputs(choice=["red", "blue"]),
    },
}


@pytest.mark.parametrize("params", CASES.values(), ids=CASES.keys())
def test_the_tokens_and_texts_are_those_of_llm(runner, client, llm, params):
    assert told(runner.run(completed(client, PROMPTS, **params))) == told(llm.generate(PROMPTS, **params))
    runner.run(idle(client))


def test_a_grammar_that_cannot_be_kept_is_refused_and_the_engine_goes_on(runner, client):
    wrong = StructuredOutputs(regex="(?=a)b")
    (output,) = runner.run(completed(client, "Once", structured_outputs=wrong))
    assert output.outputs[0].finish_reason is FinishReason.ERROR
    assert "the grammar cannot be kept" in output.outputs[0].error
    runner.run(idle(client))


def test_a_stop_string_ends_the_sequence_in_the_engine_as_well(runner, client):
    (output,) = runner.run(completed(client, "Once upon a time", temperature=0, stop=" a", max_tokens=400))
    assert output.outputs[0].finish_reason is FinishReason.STOP
    runner.run(idle(client))


def test_two_hundred_streams_that_leave_at_once_give_their_pages_back(runner, client):
    async def use() -> None:
        queues = [
            await submitted(client, f"The {i} dogs", seed=i, max_tokens=400, ignore_eos=True)
            for i in range(200)
        ]
        assert await queues[0].take()
        assert client.num_queued_requests > 100
        for queue in queues:
            client.abandon(queue)
        await idle(client)

    runner.run(use())
    stats = client.stats()
    assert stats.num_free_pages + stats.num_cached_pages == client.info.limits.num_pages - 1


def test_what_a_front_needs_to_know_of_the_model(client, llm):
    info = client.info
    assert info.limits == llm.limits
    assert info.vocab_size == llm.parts.loaded.model.config.vocab_size
    assert info.dtype == "float32"
    assert "memory" in info.memory


def test_a_bad_request_never_gets_there(client):
    with pytest.raises(RequestError, match="can never run"):
        factory_of(client).create_all(as_prompts([[5] * 10_000]), [SamplingParams()])


def test_a_terminals_ctrl_c_does_not_end_it(runner, client):
    os.kill(client._process.pid, signal.SIGINT)
    runner.run(client.heartbeat())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_a_model_that_cannot_be_loaded_is_the_callers_error(runner, environment, tmp_path):
    directory = write_checkpoint(tmp_path)
    (directory / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        runner.run(EngineClient.start(EngineSpec(model=str(directory), options=TINY_ENGINE)))


def test_an_engine_that_is_killed_fails_its_requests_and_another_begins(runner, environment, tiny):
    """And what closes in the end is the second."""

    async def use() -> None:
        supervisor = await Supervisor.start(
            EngineSpec(model=str(tiny), options=TINY_ENGINE),
            policy=RestartPolicy(max_restarts=1, first_delay_s=0.1),
            start_client=EngineClient.start,
        )
        before = told(await completed(supervisor, "the cat", temperature=0, max_tokens=8))
        # So many that they cannot have ended by the time of the signal.
        queue = await submitted(supervisor, ["the dog"] * 500, max_tokens=60, ignore_eos=True)
        assert await queue.take()
        os.kill(supervisor._client._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            await outputs_of(queue)
        supervisor.abandon(queue)
        while True:
            try:
                supervisor.check_open()
                break
            except EngineError:
                await asyncio.sleep(0.05)
        assert told(await completed(supervisor, "the cat", temperature=0, max_tokens=8)) == before
        os.kill(supervisor._client._process.pid, signal.SIGTERM)
        assert "gone" in await supervisor.wait_failed()
        with pytest.raises(EngineError, match="gone"):
            supervisor.check_open()
        await supervisor.close()

    runner.run(use())


FRONT = """
import asyncio, json, os, sys
from jinfer.server.engine_client import EngineClient
from jinfer.server.wire import EngineSpec

async def main():
    client = await EngineClient.start(EngineSpec(model=sys.argv[1], options=json.loads(sys.argv[2])))
    print(client._process.pid, flush=True)
    await client.wait_dead()

asyncio.run(main())
"""


def has_ended(pid: int) -> bool:
    """Also where nobody waits for it: the process that inherits orphans may not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_an_engine_whose_front_is_killed_ends(environment, tiny):
    command = [sys.executable, "-c", FRONT, str(tiny), json.dumps(dict(TINY_ENGINE))]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as front:
        engine = int(front.stdout.readline())
        assert not has_ended(engine)
        front.kill()
    ends_by = time.monotonic() + SECONDS
    while not has_ended(engine):
        assert time.monotonic() < ends_by, "the engine goes on without its front"
        time.sleep(0.02)
