"""The command line has every option of an engine, made from the fields of the config."""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import Mock

import jax
import pytest

from jinfer import ConfigError, EngineConfig, config
from jinfer.cli.command import _parser
from jinfer.cli.options import add_engine_options, engine_options
from jinfer.compilation.options import GPU_COMPILER_OPTIONS, compiled, compiler_options
from jinfer.config import CacheOptions, CompilerOptions, ModelOptions, SchedulerOptions
from jinfer.options import option

COMMANDS = (
    *("generate", "chat", "serve", "bench latency", "bench throughput", "bench start"),
    *("eval perplexity", "eval compare"),
)


def commands(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands at the leaves of a parser, by name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, command in group.choices.items():
            yield from commands(command, f"{name} {word}".strip())


def flags(name: str) -> set[str]:
    return {flag for action in dict(commands(_parser()))[name]._actions for flag in action.option_strings}


def parsed(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    return engine_options(parser.parse_args(words))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_starts_an_engine_has_every_option(name):
    assert {each.flag for each in EngineConfig.options().values()} <= flags(name)
    assert len(EngineConfig.options()) > 15


def test_no_other_command_starts_an_engine():
    assert {name for name, _ in commands(_parser())} - {"convert", "bench serve"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_new_field_is_an_option_of_every_command(name, monkeypatch):
    @dataclass(frozen=True)
    class More(ModelOptions):
        warp_drive: int = option(7, help="how many", metavar="N")

    monkeypatch.setitem(config.PARTS, "model", More)

    assert "--warp-drive" in flags(name)
    assert parsed("--warp-drive", "9")["warp_drive"] == 9
    assert EngineConfig.from_options({"warp_drive": 9}).model.warp_drive == 9
    with pytest.raises(ConfigError, match="warp_drive=0 must be an integer from 1"):
        EngineConfig.from_options({"warp_drive": 0})


def test_nothing_given_is_the_default_config():
    assert EngineConfig.from_options(parsed("--progress")) == EngineConfig()


def test_every_option_reaches_the_config():
    given = parsed(
        *("--dtype", "float32", "--kernels", "xla", "--quantization", "fp8"),
        *("--dummy-weights", "--dummy-weights-seed", "0"),
        *(
            "--page-size",
            "4",
            "--num-pages",
            "9",
            "--max-model-len",
            "auto",
            "--gpu-memory-utilization",
            "0.5",
        ),
        *(
            "--kv-cache-dtype",
            "int8",
            "--no-prefix-caching",
            "--max-num-seqs",
            "2",
            "--max-num-batched-tokens",
            "8",
            "--no-overlap",
        ),
        *("--scheduling-policy", "decode_first", "--compiler-option", "a=1", "--compiler-option", "b=False"),
        *("--no-compilation-cache", "--compilation-cache-dir", "somewhere", "--no-progress"),
    )

    config = EngineConfig.from_options(given)
    assert config.model == ModelOptions("float32", "xla", "fp8", True, 0)
    assert config.cache == CacheOptions(4, 9, "auto", 0.5, False, "int8")
    assert config.scheduler == SchedulerOptions(2, 8, "decode_first", False)
    assert config.compiler == CompilerOptions({"a": "1", "b": False}, False, "somewhere")
    assert config.progress is False


def test_options_are_keywords_and_attributes_by_their_names():
    config = EngineConfig(page_size=4, scheduling_policy="decode_first", progress=False)

    assert (config.page_size, config.scheduling_policy, config.progress) == (4, "decode_first", False)
    assert (config.cache.page_size, config.overlap) == (4, True)
    assert {name: getattr(config, name) for name in EngineConfig.options()} == {
        **{name: each.default for name, each in EngineConfig.options().items()},
        "page_size": 4,
        "scheduling_policy": "decode_first",
        "progress": False,
    }
    assert copy.deepcopy(config) == config != EngineConfig()
    with pytest.raises(AttributeError, match="warp_drive"):
        _ = config.warp_drive
    with pytest.raises(ConfigError, match="unknown engine option 'warp_drive'; the options are dtype, "):
        EngineConfig(warp_drive=9)


@pytest.mark.parametrize(
    "words", [("--compiler-option", "a"), ("--compiler-option", "=1"), ("--kernels", "fast")]
)
def test_a_malformed_word_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        parsed(*words)
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("value", [["a=1"], "a", {"": "1"}, {1: "1"}, {"a": 1.5}, None])
def test_compiler_options_are_a_mapping(value):
    with pytest.raises(ConfigError, match=r"compiler_options=.* must map the names of XLA's options to"):
        CompilerOptions(compiler_options=value)


def test_compiler_options_come_before_our_own():
    gpu, cpu = (Mock(spec=jax.Device, platform=platform) for platform in ("gpu", "cpu"))
    chosen = {"xla_gpu_enable_triton_gemm": True, "xla_gpu_enable_command_buffer": ""}

    assert compiler_options(gpu, chosen).items() >= {**GPU_COMPILER_OPTIONS, **chosen}.items()
    assert compiler_options(cpu, {}) is None
    assert compiler_options(cpu, {"a": "1"}) == {"a": "1"}


@pytest.mark.parametrize("options", [{"xla_no_such_option": "1"}, {"xla_cpu_enable_fast_math": "perhaps"}])
def test_an_option_that_xla_refuses_is_named(options):
    lowered = jax.jit(lambda x: x + 1).lower(1.0)

    with pytest.raises(
        ConfigError, match=rf"compiler_options=.*{next(iter(options))}.*correct it or leave it out"
    ):
        compiled(lowered, options)
