"""Whatever is wrong with a model, an option or a request: which exception, and that it gives value, rule and
remedy."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jinfer
from jinfer import (
    LLM,
    CheckpointError,
    ConfigError,
    InsufficientMemoryError,
    JinferError,
    ModelNotFoundError,
    RequestError,
    SamplingParams,
    TokenizerError,
    UnsupportedModelError,
)
from tests.checkpoints import (
    CONFIG,
    CONTEXT,
    TINY_ENGINE,
    VOCAB_SIZE,
    random_tensors,
    write_checkpoint,
    write_json,
    write_shards,
)
from tests.end_to_end.llm.helpers import is_idle

# Of four tokens each: prompts of 20 to 31 fit the pages, and not the context.
MAX_MODEL_LEN, USABLE_PAGES = (
    20,
    8,
)
LIMITED = {**TINY_ENGINE, "num_pages": USABLE_PAGES + 1, "max_model_len": MAX_MODEL_LEN}
GREEDY = {"temperature": 0, "max_tokens": 4}
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def shared_llm(tmp_path_factory) -> Iterator[LLM]:
    directory = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    with LLM(directory, **LIMITED) as llm:
        yield llm


@pytest.fixture
def llm(shared_llm) -> Iterator[LLM]:
    """Every test must leave it able to answer."""
    yield shared_llm
    shared_llm.check_integrity()
    assert len(shared_llm.generate([5, 6], **GREEDY, ignore_eos=True)[0].outputs[0].token_ids) == 4


def check(error: JinferError, *parts: str) -> None:
    for part in parts:
        assert part in str(error), f"{part!r} is not in {str(error)!r}"


def changed(**changes: Any) -> Damage:
    """config.json with some entries replaced or, where None, taken away."""
    config = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    return lambda directory: write_json(directory / "config.json", config)


def without(*names: str) -> Damage:
    """Weights without some tensors."""
    return with_tensors(dict.fromkeys(names))


def with_tensors(changes: Mapping[str, np.ndarray | None]) -> Damage:
    """Weights with tensors replaced, added or, where None, taken away."""
    tensors = {name: tensor for name, tensor in {**random_tensors(), **changes}.items() if tensor is not None}
    return lambda directory: write_checkpoint(directory, tensors=tensors)


def sharded_without_one(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    write_shards(directory, random_tensors(), num_shards=3)
    (directory / "model-00003-of-00003.safetensors").unlink()


def cut_off(name: str, num_bytes: int) -> Damage:
    def cut(directory: Path) -> None:
        (directory / name).write_bytes((directory / name).read_bytes()[:-num_bytes])

    return cut


def replaced(name: str, content: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes(content)


def removed(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


BAD_MODELS: dict[str, tuple[Damage, type[JinferError], tuple[str, ...]]] = {
    "no config": (
        removed("config.json"),
        ModelNotFoundError,
        ("has no config.json", "a model directory holds one"),
    ),
    "config is no JSON": (
        replaced("config.json", b"{"),
        UnsupportedModelError,
        ("is not JSON", "fetch it again"),
    ),
    "config is a list": (
        replaced("config.json", b"[]"),
        UnsupportedModelError,
        ("holds a list", "object is needed"),
    ),
    "no architectures": (
        changed(architectures=None),
        UnsupportedModelError,
        ("config.json has no 'architectures'", "a list with one of", "LlamaForCausalLM", "Qwen3ForCausalLM"),
    ),
    "unknown architecture": (
        changed(architectures=["FooForCausalLM"]),
        UnsupportedModelError,
        ("'FooForCausalLM'", "jinfer knows", "LlamaForCausalLM", "docs/adding_a_model.md"),
    ),
    "no hidden size": (
        changed(hidden_size=None),
        UnsupportedModelError,
        ("config.json has no 'hidden_size'",),
    ),
    "missing tensor": (
        without("model.layers.1.mlp.up_proj.weight"),
        CheckpointError,
        ("do not fit the model", "model.layers.1.mlp.up_proj.weight is missing"),
    ),
    "wrong shape": (
        with_tensors({"lm_head.weight": np.zeros((VOCAB_SIZE, 31), np.float32)}),
        CheckpointError,
        ("lm_head.weight has shape (300, 31), the model needs (300, 32)",),
    ),
    "extra tensor": (
        with_tensors({"model.adapter.weight": np.zeros(3, np.float32)}),
        CheckpointError,
        ("model.adapter.weight is not a tensor of the model",),
    ),
    "no weights": (
        removed("model.safetensors"),
        CheckpointError,
        (
            "neither model.safetensors nor model.safetensors.index.json",
            "safetensors and Orbax checkpoints only",
        ),
    ),
    "truncated weights": (
        cut_off("model.safetensors", 1000),
        CheckpointError,
        ("model.safetensors is truncated or corrupt", "fetch it again"),
    ),
    "corrupt header": (
        replaced("model.safetensors", b"\x10\0\0\0\0\0\0\0not a JSON header"),
        CheckpointError,
        ("model.safetensors is truncated or corrupt", "fetch it again"),
    ),
    "missing shard": (
        sharded_without_one,
        CheckpointError,
        (
            "model.safetensors.index.json names model-00003-of-00003.safetensors, which",
            "fetch the model again",
        ),
    ),
    "corrupt tokenizer": (
        cut_off("tokenizer.json", 50),
        TokenizerError,
        ("tokenizer.json is corrupt", "again"),
    ),
    "EOS that is no id": (
        lambda directory: write_json(directory / "generation_config.json", {"eos_token_id": ["<eos>"]}),
        UnsupportedModelError,
        ("generation_config.json has eos_token_id ['<eos>']", "integer"),
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_directory_that_cannot_be_used(tmp_path, name):
    damage, error, parts = BAD_MODELS[name]
    write_checkpoint(tmp_path)
    damage(tmp_path)
    with pytest.raises(error) as caught:
        LLM(tmp_path, **TINY_ENGINE)

    assert type(caught.value) is error
    check(caught.value, *parts)


def test_options_that_contradict_each_other_are_refused_before_weights_are_loaded(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="max_num_seqs=32"):
        LLM(tmp_path, **{**TINY_ENGINE, "max_num_seqs": 32})


def test_a_directory_that_does_not_exist(tmp_path):
    with pytest.raises(ModelNotFoundError) as caught:
        LLM(tmp_path / "nowhere", **TINY_ENGINE)

    check(caught.value, str(tmp_path / "nowhere"), "is not a directory", "not a hub id", "check the path")
    assert isinstance(caught.value, FileNotFoundError)


def test_a_hub_id_that_is_not_in_the_cache_while_offline():
    with pytest.raises(ModelNotFoundError) as caught:
        LLM("nobody/no-such-model", **TINY_ENGINE)

    check(caught.value, "'nobody/no-such-model'", "the hub did not give it", "HF_HUB_OFFLINE")


def test_a_model_without_a_tokenizer_takes_ids_and_refuses_text(tmp_path, caplog):
    write_checkpoint(tmp_path, tokenizer=False)
    with LLM(tmp_path, **LIMITED) as llm:
        assert "there is no tokenizer.json" in caplog.text
        remedy = "the model has none; pass token ids, or LLM(tokenizer=...)"
        for use, what in (
            (lambda: llm.generate("text"), "a prompt of text"),
            (lambda: llm.stream("text"), "a prompt of text"),
            (lambda: llm.generate([5, 6], stop="x"), "stop strings"),
            (lambda: llm.chat([{"role": "user", "content": "x"}]), "chat"),
        ):
            with pytest.raises(RequestError) as caught:
                use()
            check(caught.value, f"{what} needs a tokenizer", remedy)
        (output,) = llm.generate([5, 6, 7], **GREEDY)

    assert len(output.outputs[0].token_ids) == 4
    assert output.text == ""


def test_a_model_without_a_chat_template(tmp_path):
    write_checkpoint(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"bos_token": "<|bos|>", "eos_token": "<|eos|>"})
    with LLM(tmp_path, **LIMITED) as llm, pytest.raises(TokenizerError) as caught:
        llm.chat([{"role": "user", "content": "x"}])

    check(caught.value, "no chat template", "pass a prompt instead of messages")


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[JinferError], tuple[str, ...]]] = {
    "unknown": (
        {"page_sise": 8},
        ConfigError,
        ("unknown engine option 'page_sise'", "the options are", "page_size"),
    ),
    "malformed": ({"page_size": 0}, ConfigError, ("page_size=0", "an integer from 1")),
    "length": (
        {"max_model_len": "long"},
        ConfigError,
        ("max_model_len='long'", "an integer from 1 to 2147483647 or 'auto'"),
    ),
    "dtype": ({"dtype": "float8"}, ConfigError, ("dtype='float8'", "'bfloat16', 'float32'")),
    "policy": (
        {"scheduling_policy": "fifo"},
        ConfigError,
        ("scheduling_policy='fifo'", "'mixed', 'prefill_first', 'd"),
    ),
    "overlap": ({"overlap": "yes"}, ConfigError, ("overlap='yes'", "one of True, False")),
    "prefix caching": ({"prefix_caching": None}, ConfigError, ("prefix_caching=None", "one of True, False")),
    "share": ({"gpu_memory_utilization": math.nan}, ConfigError, ("gpu_memory_utilization=nan", "(0, 1]")),
    "contradiction": (
        {"max_num_seqs": 32},
        ConfigError,
        ("max_num_seqs=32", "max_num_batched_tokens=16", "raise it or lower max_num_seqs"),
    ),
    "context beyond the model": (
        {"max_model_len": CONTEXT + 1},
        ConfigError,
        (f"max_model_len={CONTEXT + 1}", f"{CONTEXT} positions", f"lower it to {CONTEXT}"),
    ),
    "pages without end": (
        {"num_pages": 2 * 10**9},
        InsufficientMemoryError,
        (
            "a KV cache of 2000000000 pages of 4 tokens needs 2048.00 GB",
            "gpu_memory_utilization=0.9 of ",
            "GB for it after",
            "GB of workspace",
            "lower num_pages, max_num_seqs or max_num_batched_tokens, or raise gpu_memory_utilization",
        ),
    ),
    "too few pages": (
        {"num_pages": 3, "max_model_len": 32},
        InsufficientMemoryError,
        ("2 pages of 4 hold 8 tokens", "max_model_len=32", "raise num_pages or lower max_model_len"),
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_an_engine_option_that_cannot_be_used(tmp_path, name):
    options, error, parts = BAD_OPTIONS[name]
    write_checkpoint(tmp_path)
    with pytest.raises(error) as caught:
        LLM(tmp_path, **{**TINY_ENGINE, **options})

    assert type(caught.value) is error
    check(caught.value, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            {},
            (
                "a configuration alone has no weights",
                "give params=, a model directory, or dummy_weights=True",
            ),
        ),
        ({"params": {}, "dummy_weights": True}, ("both given", "two sources of the same weights")),
    ],
)
def test_a_configuration_needs_one_source_of_weights(arguments, parts):
    with pytest.raises(ConfigError) as caught:
        LLM(CONFIG, **TINY_ENGINE, **arguments)

    check(caught.value, *parts)


BAD_REQUESTS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "no prompts": ([], {}, ("the list of prompts is empty", "give at least one")),
    "no tokens": ([[]], {}, ("the prompt has no tokens", "give at least one")),
    "no prompt at all": (None, {}, ("NoneType", "give a string, a list of token ids, or a list of either")),
    "beyond the context": (
        [5] * MAX_MODEL_LEN,
        {},
        (
            "20 tokens",
            "the context holds 20",
            "one must be left",
            "shorten the prompt or raise max_model_len",
        ),
    ),
    "beyond the pages": (
        [5] * (4 * USABLE_PAGES),
        {},
        ("32 tokens", "9 pages of 4", "the KV cache has 8", "can never run", "shorten it or raise num_pages"),
    ),
    "id outside the vocabulary": ([5, VOCAB_SIZE], {}, ("token id 300", "integers from 0 to 299")),
    "negative id": ([5, -1], {}, ("token id -1", "integers from 0 to 299")),
    "not Unicode": ("a\udc80", {}, ("lone surrogate", "remove it")),
    "negative max_tokens": ([5], {"max_tokens": -1}, ("max_tokens=-1", "an integer from 1")),
    "temperature NaN": ([5], {"temperature": math.nan}, ("temperature=nan", "a finite number from 0 to 2")),
    "temperature infinite": (
        [5],
        {"temperature": math.inf},
        ("temperature=inf", "a finite number from 0 to 2"),
    ),
    "top_p 0": ([5], {"top_p": 0}, ("top_p=0", "above 0 and at most 1")),
    "salt": ([5], {"cache_salt": ""}, ("cache_salt=''", "1 to 256 characters")),
    "salt of bytes": ([5], {"cache_salt": b"a"}, ("cache_salt=b'a'", "or None to share")),
    "n without chance": (
        [5],
        {"n": 2, "temperature": 0},
        ("n=2", "temperature 0", "use n=1 or temperature > 0"),
    ),
    "more at least than at most": (
        [5],
        {"min_tokens": 9, "max_tokens": 8},
        ("min_tokens=9", "must not exceed max_tokens=8"),
    ),
    "unknown parameter": (
        [5],
        {"temprature": 1},
        ("unknown sampling parameter 'temprature'", "the parameters are", "temperature"),
    ),
    "stop id outside": ([5], {"stop_token_ids": [VOCAB_SIZE]}, ("stop token id 300", "vocabulary of 300")),
    "empty stop string": ([5], {"stop": ""}, ("stop=''", "1 to 1024 characters")),
    "too many logprobs": ([5], {"logprobs": 21}, ("logprobs=21", "from 0 to 20")),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_that_cannot_run(llm, name):
    prompts, options, parts = BAD_REQUESTS[name]
    for use in (llm.generate, llm.stream):
        with pytest.raises(RequestError) as caught:
            use(prompts, **options)
        check(caught.value, *parts)


def test_params_and_keywords_together(llm):
    with pytest.raises(RequestError) as caught:
        llm.generate([5], SamplingParams(), seed=1)

    check(caught.value, "'seed'", "put all into SamplingParams")


def test_messages_that_are_none(llm):
    for messages, part in (([], "empty"), ([{"content": "x"}], "role"), ("hello", "list of messages")):
        with pytest.raises(RequestError, match=part):
            llm.chat(messages)


def test_one_bad_prompt_is_named_and_refused_before_anything_runs(llm, monkeypatch):
    good, bad = [5, 6, 7], [5] * MAX_MODEL_LEN

    def refuse(request):
        raise AssertionError("a request was accepted")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "add", refuse)
        for use in (llm.generate, llm.stream):
            with pytest.raises(RequestError) as caught:
                use([good, good, bad, good], **GREEDY)
            check(caught.value, "prompts[2]", "the context holds 20")
    assert is_idle(llm)


def test_one_bad_params_is_refused_before_anything_runs(llm):
    params = [SamplingParams(**GREEDY), SamplingParams(**GREEDY, stop_token_ids=[VOCAB_SIZE])]
    with pytest.raises(RequestError) as caught:
        llm.generate([[5], [6]], params)

    check(caught.value, "prompts[1]", "stop token id 300")
    assert is_idle(llm)


def test_the_one_liner_refuses_unknown_options(tmp_path):
    write_checkpoint(tmp_path)
    with pytest.raises(ConfigError) as caught:
        jinfer.generate("x", model=tmp_path, temprature=1)

    check(caught.value, "'temprature'", "temperature")


def test_messages_are_short_enough_to_read(tmp_path):
    """A checkpoint of another model altogether does not list hundreds of tensors."""
    write_checkpoint(tmp_path, tensors={f"other.{i}": np.zeros(1, np.float32) for i in range(500)})
    with pytest.raises(CheckpointError) as caught:
        LLM(tmp_path, **TINY_ENGINE)

    assert len(str(caught.value)) < 1500
    assert json.dumps(str(caught.value)).isascii()
