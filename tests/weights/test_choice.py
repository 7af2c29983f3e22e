"""Two things in a directory that look like the weights: which is taken, and what is said. Files that change a
model."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from jinfer.cli import main
from jinfer.errors import UnsupportedModelError
from jinfer.weights.params import unflatten
from tests.checkpoints import CONFIG, random_tensors, write_json, write_shards
from tests.weights.loaded import assert_same, expected, loaded, raised

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ONE, OTHER = random_tensors(seed=1), random_tensors(seed=2)
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def directory(tmp_path) -> Path:
    write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


@pytest.fixture
def said(caplog) -> Callable[[], str]:
    """The warnings that were given."""
    caplog.set_level(logging.WARNING, logger="jinfer")
    return lambda: "\n".join(r.getMessage() for r in caplog.records if "tokenizer.json" not in r.getMessage())


def save_orbax(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((directory / "params").resolve(), unflatten(expected(tensors)))


@pytest.mark.parametrize("write", ["single", "shards", "orbax"])
def test_one_source_is_not_spoken_of(directory, said, write):
    if write == "single":
        save_file(ONE, directory / SINGLE)
    elif write == "shards":
        write_shards(directory, ONE)
    else:
        save_orbax(directory, ONE)
    save_file({"unrelated.weight": np.ones(3, np.float32)}, directory / "vision.safetensors")
    write_json(directory / "generation_config.json", {})

    assert_same(loaded(directory), expected(ONE))
    assert said() == ""


def test_of_a_single_file_and_an_index_the_single_file_is_taken_as_by_transformers(directory, said):
    save_file(ONE, directory / SINGLE)
    write_shards(directory, OTHER)

    assert_same(loaded(directory), expected(ONE))
    assert f"{SINGLE} is served, and not read: {INDEX}" in said()


def damage(directory: Path, how: str) -> None:
    """Makes the single file, or the index, or a shard unfit."""
    if how == "truncated single":
        (directory / SINGLE).write_bytes((directory / SINGLE).read_bytes()[:-4])
    elif how == "half a single":
        save_file({name: x for name, x in OTHER.items() if ".1." not in name}, directory / SINGLE)
    elif how == "single of another model":
        save_file({name: np.concatenate([x, x]) for name, x in OTHER.items()}, directory / SINGLE)
    elif how == "empty single":
        (directory / SINGLE).write_bytes(b"")
    elif how == "a shard is absent":
        (directory / SHARD).unlink()
    elif how == "a shard is truncated":
        (directory / SHARD).write_bytes((directory / SHARD).read_bytes()[:-4])
    elif how == "an index of nothing":
        write_json(directory / INDEX, {"weight_map": {}})
    else:
        (directory / INDEX).write_text("{")


@pytest.mark.parametrize(
    ("how", "whole"),
    [
        ("truncated single", INDEX),
        ("half a single", INDEX),
        ("single of another model", INDEX),
        ("empty single", INDEX),
        ("a shard is absent", SINGLE),
        ("a shard is truncated", SINGLE),
        ("an index of nothing", SINGLE),
        ("an index that is no JSON", SINGLE),
    ],
)
def test_the_source_that_is_whole_is_taken_and_the_other_named(directory, said, how, whole):
    save_file(OTHER if whole == INDEX else ONE, directory / SINGLE)
    write_shards(directory, ONE if whole == INDEX else OTHER)
    damage(directory, how)

    assert_same(loaded(directory), expected(ONE))
    assert f"{whole} is served, and not read: {SINGLE if whole == INDEX else INDEX}" in said()


def test_where_none_is_whole_both_are_named_with_what_is_wrong(directory):
    save_file(OTHER, directory / SINGLE)
    write_shards(directory, ONE)
    damage(directory, "truncated single")
    damage(directory, "a shard is absent")

    message = raised(directory)
    assert f"{directory / SINGLE} is truncated or corrupt" in message
    assert f"{directory / INDEX} names {SHARD}" in message


def test_an_orbax_checkpoint_goes_before_safetensors(directory, said):
    save_orbax(directory, ONE)
    save_file(OTHER, directory / SINGLE)

    assert_same(loaded(directory), expected(ONE))
    assert f"params is served, and not read: {SINGLE}" in said()


@pytest.mark.parametrize("content", ["empty", "of another model", "of something else"])
def test_a_folder_params_that_is_no_checkpoint_of_the_model_goes_after_safetensors(directory, said, content):
    if content == "of another model":
        save_orbax(directory, {name: x[:8] for name, x in OTHER.items()})
    else:
        (directory / "params").mkdir()
        if content == "of something else":
            (directory / "params" / "notes.txt").write_text("hello")
    save_file(ONE, directory / SINGLE)

    assert_same(loaded(directory), expected(ONE))
    assert f"{SINGLE} is served, and not read: params" in said()


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "consolidated.safetensors",
        "consolidated.00.pth",
        "model-Q4_K_M.gguf",
        "tf_model.h5",
        "flax_model.msgpack",
    ],
)
def test_weights_in_another_format_are_named(directory, said, name):
    save_file(ONE, directory / SINGLE)
    (directory / name).write_bytes(b"whatever")

    assert_same(loaded(directory), expected(ONE))
    assert f"{SINGLE} is served, and not read: {name}" in said()


@pytest.mark.parametrize(
    "name", ["model-00001-of-00005.safetensors", "model_old.safetensors", "model.fp16.safetensors"]
)
def test_files_with_tensors_of_the_model_that_no_index_names_are_named(directory, said, name):
    write_shards(directory, ONE)
    save_file({"model.layers.1.mlp.up_proj.weight": np.zeros((48, 32), np.float32)}, directory / name)

    assert_same(loaded(directory), expected(ONE))
    assert f"{INDEX} is served, and not read: {name}" in said()


def test_a_file_that_config_json_names_and_that_is_absent_is_named(directory):
    write_json(directory / "config.json", dict(CONFIG, transformers_weights="other.safetensors"))
    save_file(ONE, directory / SINGLE)

    assert "holds no other.safetensors" in raised(directory)


def test_a_file_that_config_json_names_is_taken_as_by_transformers(directory, said):
    write_json(directory / "config.json", dict(CONFIG, transformers_weights="other.safetensors"))
    save_file(ONE, directory / "other.safetensors")
    save_file(OTHER, directory / SINGLE)

    assert_same(loaded(directory), expected(ONE))
    assert f"other.safetensors is served, and not read: {SINGLE}" in said()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/other.safetensors", "other.bin", 5, ["a"], "", "a\0.safetensors"]
)
def test_a_name_in_config_json_that_is_no_file_of_the_directory_is_refused(directory, name):
    save_file(ONE, directory / SINGLE)
    write_json(directory / "config.json", dict(CONFIG, transformers_weights=name))

    with pytest.raises(UnsupportedModelError, match="transformers_weights"):
        loaded(directory)


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 4}


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_named(directory, said, file):
    save_file(ONE, directory / SINGLE)
    write_adapter(directory, file)

    assert_same(loaded(directory), expected(ONE))
    assert f"({file}) is not applied" in said()
    assert "merge_and_unload" in said()


def write_adapter(directory: Path, *names: str) -> None:
    for name in names:
        if name.endswith(".json"):
            write_json(directory / name, ADAPTER)
        else:
            lora = {
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((4, 32), np.float32)
            }
            save_file(lora, directory / name)


@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_alone_is_refused_by_name_with_a_remedy(directory, has_config):
    write_adapter(directory, "adapter_config.json", "adapter_model.safetensors")
    if not has_config:
        (directory / "config.json").unlink()

    message = raised(directory)
    assert "adapter_config.json" in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json", "quant_config.json"])
def test_a_file_that_says_the_weights_are_quantized_is_named(directory, said, name):
    save_file(ONE, directory / SINGLE)
    write_json(directory / name, {"quantization": {"quant_algo": "FP8"}, "bits": 4})

    assert_same(loaded(directory), expected(ONE))
    assert name in said()


def test_code_of_the_models_own_is_named(directory, said):
    save_file(ONE, directory / SINGLE)
    write_json(
        directory / "config.json", dict(CONFIG, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    )
    (directory / "custom_generate").mkdir()

    assert_same(loaded(directory), expected(ONE))
    assert "modeling_mine.Mine" in said()
    assert "custom_generate" in said()


def test_a_directory_copied_with_links_is_served(directory, tmp_path_factory):
    """As the hub's cache is: names that link to files elsewhere."""
    blobs = tmp_path_factory.mktemp("blobs")
    write_shards(blobs, ONE)
    for file in blobs.iterdir():
        (directory / file.name).symlink_to(file)

    assert_same(loaded(directory), expected(ONE))


def test_convert_goes_by_the_same_rule(directory, tmp_path_factory, capsys):
    save_file(OTHER, directory / SINGLE)
    write_shards(directory, ONE)
    damage(directory, "truncated single")
    out = tmp_path_factory.mktemp("out") / "orbax"

    assert main(["convert", "--model", str(directory), "--to", "orbax", str(out)]) == 0
    assert f"{INDEX} is served" in capsys.readouterr().err
    assert_same(loaded(out), expected(ONE))
    assert json.loads((out / "config.json").read_text()) == json.loads(
        (directory / "config.json").read_text()
    )
