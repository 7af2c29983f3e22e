"""Orbax checkpoints: what is written is what is read, and what is said about those that cannot be read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jinfer.errors import CheckpointError, ConfigError
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights.orbax import load_orbax, save_orbax
from jinfer.weights.orbax_layout import find_trees
from jinfer.weights.params import Params, flatten, unflatten
from jinfer.weights.safetensors import load_checkpoint
from tests.checkpoints import CONFIG, write_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]


def model_of(dtype: str = "float32", **changes) -> Model:
    return build_model(read_model_config(dict(CONFIG, **changes)), jnp.dtype(dtype), "xla")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), generation_config={"temperature": 0.5})


@pytest.fixture(scope="module")
def params(source) -> Params:
    return load_checkpoint(model_of().param_specs, source, placement=default_placement(), progress=False)


@pytest.fixture(scope="module")
def saved(source, params, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "deep" / "orbax"
    save_orbax(params, source, out)
    return out


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A checkpoint to damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def assert_same(given: Params, wanted: Params) -> None:
    assert flatten(given).keys() == flatten(wanted).keys()
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(flatten(given)[path], array, err_msg=path)
        assert flatten(given)[path].dtype == array.dtype


def test_what_was_saved_is_loaded(saved, params):
    loaded = load_orbax(model_of().param_specs, saved, placement=default_placement())

    assert_same(loaded, params)
    assert {x.sharding for x in jax.tree.leaves(loaded)} == {x.sharding for x in jax.tree.leaves(params)}


def test_config_tokenizer_and_defaults_come_along(source, saved):
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (saved / name).read_bytes() == (source / name).read_bytes()
    assert not (saved / "model.safetensors").exists()


def test_a_checkpoint_is_told_by_its_params(source, saved):
    assert find_trees(saved) == [saved / "params"]
    assert find_trees(source) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted_to_the_models_dtype(saved, params, dtype):
    loaded = load_orbax(model_of(dtype).param_specs, saved, placement=default_placement())

    assert_same(loaded, jax.tree.map(lambda x: x.astype(dtype), params))


def test_an_existing_directory_is_not_overwritten(source, params, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out exists; name a directory that does not"):
        save_orbax(params, source, tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_params_of_a_training_run_are_served_as_they_are(source, params, tmp_path):
    """Written by Orbax itself, in a dtype of its own, beside a config.json."""
    trained = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    shutil.copyfile(source / "config.json", tmp_path / "config.json")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((tmp_path / "params").resolve(), trained)

    assert_same(
        load_orbax(model_of().param_specs, tmp_path, placement=default_placement()),
        jax.tree.map(lambda x: x.astype(jnp.float32), trained),
    )


def raised(directory: Path, model: Model | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_orbax((model or model_of()).param_specs, directory, placement=default_placement())
    return str(caught.value)


def test_shapes_of_another_model_are_named(saved):
    message = raised(saved, model_of(vocab_size=301))

    assert "embedding/kernel has shape (300, 32), the model needs (301, 32)" in message
    assert str(saved) in message


def test_missing_and_extra_params_are_named(source, params, tmp_path):
    flat = dict(flatten(params))
    flat["mlp/extra"] = flat.pop("mlp/down/kernel")
    save_orbax(unflatten(flat), source, tmp_path / "out")

    message = raised(tmp_path / "out")
    assert "mlp/down/kernel is missing" in message
    assert "mlp/extra is not a parameter of the model" in message


def test_a_tree_with_lists_is_named_by_place(source, params, tmp_path):
    save_orbax({**params, "layers": [jnp.ones(3), jnp.ones(2)]}, source, tmp_path / "out")

    assert "layers/1 is not a parameter of the model" in raised(tmp_path / "out")


LOAD_AND_TELL = """
import json, sys
from pathlib import Path
import jax.numpy as jnp
from jinfer.errors import CheckpointError
from jinfer.placement import default_placement
from jinfer.weights.orbax import load_orbax
from jinfer.models.registry import build_model, read_model_config
for directory in map(Path, sys.argv[1:]):
    config = json.loads((directory / "config.json").read_text())
    try:
        model = build_model(read_model_config(config), jnp.dtype("float32"), "xla")
        load_orbax(model.param_specs, directory, placement=default_placement())
    except CheckpointError as error:
        print(json.dumps(str(error)))
"""


def test_damaged_arrays_are_an_error_with_the_directory_and_a_remedy(saved, tmp_path):
    """In a process of its own: Orbax abandons the other reads of a failed restore, and they report errors for
    long."""
    truncated, lost = (shutil.copytree(saved, tmp_path / name) for name in ("truncated", "lost"))
    file = largest_file(truncated / "params")
    file.write_bytes(file.read_bytes()[:1000])
    largest_file(lost / "params").unlink()
    command = [sys.executable, "-c", LOAD_AND_TELL, truncated, lost]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=PIPE, stderr=DEVNULL, text=True, timeout=600)

    messages = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(messages) == 2
    for message, directory in zip(messages, (truncated, lost), strict=True):
        assert f"{directory / 'params'} cannot be read" in message
        assert "write it again" in message
        assert len(message) < 1000  # Orbax says pages


def largest_file(directory: Path) -> Path:
    return max(
        (path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


@pytest.mark.parametrize("content", [None, b"junk"])
def test_unreadable_metadata_is_an_error_with_the_directory_and_a_remedy(copy, content):
    metadata = copy / "params" / "_METADATA"
    if content is None:
        metadata.unlink()
    else:
        metadata.write_bytes(content)

    message = raised(copy)
    assert f"{copy / 'params'} is not an Orbax checkpoint, or an incomplete one" in message
    assert "write it again" in message


def test_an_empty_directory_is_an_incomplete_checkpoint(copy):
    shutil.rmtree(copy / "params")
    (copy / "params").mkdir()

    assert "not an Orbax checkpoint, or an incomplete one" in raised(copy)
