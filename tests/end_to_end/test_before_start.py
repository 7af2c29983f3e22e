"""What is wrong with options and requests is said before weights are read: nothing here reads them."""

from pathlib import Path

import pytest

from jinfer import LLM, ConfigError, InsufficientMemoryError, RequestError, SamplingParams
from jinfer.config import EngineConfig
from jinfer.requests.prompts import as_prompts
from jinfer.startup import resolve_checked
from tests.checkpoints import CONFIG, CONTEXT, TINY_ENGINE, VOCAB_SIZE, write_checkpoint

ROWS = VOCAB_SIZE + 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model whose embedding has more rows than there are tokens."""
    directory = tmp_path_factory.mktemp("rows")
    write_checkpoint(directory, config={**CONFIG, "vocab_size": ROWS}, generation_config={"temperature": 0})
    return directory


@pytest.fixture(autouse=True)
def weights_are_not_read(monkeypatch):
    """But for the headers of their files, which say what the model is."""
    monkeypatch.setattr(
        "jinfer.weights.streaming.stream", lambda *arguments: pytest.fail("weights were read")
    )


def check(directory: Path, prompts, params: SamplingParams | None = None, **options) -> None:
    config = EngineConfig.from_options({**TINY_ENGINE, **options})
    listed = as_prompts(prompts)
    resolve_checked(directory, config, prompts=listed, params=[params or SamplingParams()] * len(listed))


@pytest.mark.parametrize(
    ("prompts", "params", "parts"),
    [
        ([1, -2], {}, ("token id -2", f"0 to {ROWS - 1}")),
        ([[1], [ROWS]], {}, ("prompts[1]", f"token id {ROWS}")),
        ([5] * CONTEXT, {}, (f"{CONTEXT} tokens", f"context holds {CONTEXT}", "shorten")),
        ("x " * 40, {}, (f"context holds {CONTEXT}", "shorten")),
        ([5], {"min_tokens": CONTEXT}, (f"min_tokens={CONTEXT}",)),
        ([5], {"n": 2}, ("n=2 with temperature 0",)),
        ([5], {"stop_token_ids": [ROWS]}, (f"stop token id {ROWS}",)),
        ("\udc80", {}, ("lone surrogate",)),
    ],
)
def test_a_request_that_could_not_run(directory, prompts, params, parts):
    with pytest.raises(RequestError) as caught:
        check(directory, prompts, SamplingParams(**params))

    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        (
            {"max_model_len": CONTEXT + 1},
            ConfigError,
            (f"max_model_len={CONTEXT + 1}", f"lower it to {CONTEXT}"),
        ),
        ({"max_num_seqs": 17}, ConfigError, ("max_num_seqs=17", "max_num_batched_tokens=16")),
        ({"num_pages": 2 * 10**9}, InsufficientMemoryError, ("pages of 4", "lower num_pages")),
        (
            {"num_pages": 4, "max_model_len": 20},
            InsufficientMemoryError,
            ("hold 12 tokens", "max_model_len=20"),
        ),
        ({"gpu_memory_utilization": 1e-9}, InsufficientMemoryError, ("GB", "gpu_memory_utilization")),
    ],
)
def test_an_option_that_does_not_fit(directory, options, error, parts):
    with pytest.raises(error) as caught:
        check(directory, [5], **options)

    assert all(part in str(caught.value) for part in parts)


def test_pages_that_are_given_bound_a_prompt(directory):
    check(directory, [5] * 11, num_pages=4)
    with pytest.raises(RequestError, match="12 tokens"):
        check(directory, [5] * 12, num_pages=4)


@pytest.mark.parametrize(
    "options", [{}, {"max_model_len": "auto"}, {"num_pages": 17, "max_model_len": CONTEXT}]
)
def test_what_could_run_passes(directory, options):
    check(directory, [[5] * (CONTEXT - 1), [ROWS - 1], "the cat"], **options)


def test_a_context_longer_than_the_pages_that_steps_are_compiled_for_passes(tmp_path):
    write_checkpoint(tmp_path, config={**CONFIG, "max_position_embeddings": 1 << 16})
    check(tmp_path, [5] * 60_000)


def test_a_resolved_model_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_checkpoint(tmp_path)
    config = EngineConfig.from_options(TINY_ENGINE)
    resolved = resolve_checked(tmp_path, config)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).unlink()
    with LLM(resolved, **TINY_ENGINE) as llm:
        assert len(llm.generate("the cat", max_tokens=2, ignore_eos=True)[0].outputs[0].token_ids) == 2
