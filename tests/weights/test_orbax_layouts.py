"""Orbax checkpoints as training runs write them: which are served, and what is said of the others."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from jinfer.weights.params import flatten, unflatten
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_json
from tests.weights.loaded import assert_same, expected, loaded, raised

RIGHT = expected(random_tensors())
PARAMS = unflatten(RIGHT)


@pytest.fixture
def directory(tmp_path) -> Path:
    write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def save(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), tree)


def other() -> dict[str, Any]:
    """Parameters of the same shapes with other values."""
    return jax.tree.map(lambda x: x + 1, PARAMS)


def as_variables(tree: Any) -> Any:
    return jax.tree.map(nnx.Param, tree)


class Trained(nnx.Module):
    """A module that has what is no parameter: the random state of its dropout."""

    def __init__(self) -> None:
        self.embedding = nnx.Dict(kernel=nnx.Param(jnp.asarray(RIGHT["embedding/kernel"])))
        self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(0))


def with_random_state() -> nnx.State:
    state = nnx.to_pure_dict(nnx.state(Trained(), nnx.RngState))
    numbers = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state
    )
    return nnx.State({**as_variables(PARAMS), **as_variables(numbers)})


TREES: Mapping[str, Callable[[], Any]] = {
    "a dict": lambda: PARAMS,
    "jax arrays": lambda: jax.tree.map(jnp.asarray, PARAMS),
    "an nnx.State": lambda: nnx.State(as_variables(PARAMS)),
    "a dict of nnx variables": lambda: as_variables(PARAMS),
    "an nnx.State with the random state of its dropout": with_random_state,
    "a training state": lambda: {
        "params": PARAMS,
        "step": 5,
        "opt_state": ({"mu": other(), "nu": other()}, {}),
    },
    "an optimizer's state of the whole": lambda: {"params": PARAMS, "opt_state": other()},
    "linen's variables": lambda: {"params": PARAMS, "batch_stats": {}},
    "a state in a state": lambda: {
        "state": {"params": PARAMS, "step": np.int32(5)},
        "metrics": {"loss": np.float32(1)},
    },
    "a state of nnx variables": lambda: {"model": nnx.State(as_variables(PARAMS)), "step": 5},
    "what is empty beside it": lambda: {**PARAMS, "opt": {}, "more": {"none": None}, "list": [], "tuple": ()},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_trees_that_hold_the_parameters_once_are_served(tree, directory):
    save(directory / "params", tree())

    assert_same(loaded(directory), RIGHT)


def test_what_is_left_out_of_a_training_state_is_said_to_who_asks(directory, caplog):
    save(directory / "params", {"params": PARAMS, "step": 5, "ema_decay": np.float32(0.9)})
    with caplog.at_level(logging.INFO, logger="jinfer"):
        loaded(directory)

    assert "beside the weights in params/: ema_decay, step" in caplog.text


def test_a_tree_with_the_parameters_twice_is_refused(directory):
    save(directory / "params", {"params": PARAMS, "ema": other()})

    message = raised(directory)
    assert "more than once, in ema/, params/" in message
    assert "save one of them alone" in message


def test_faults_of_a_training_state_are_named_by_the_parameter(directory):
    save(
        directory / "params",
        {"params": unflatten({k: v for k, v in RIGHT.items() if k != "mlp/down/kernel"}), "step": 1},
    )

    message = raised(directory)
    assert "mlp/down/kernel is missing" in message
    assert "is not a parameter" not in message
    assert "write it again" not in message


def pytree_checkpointer(root: Path) -> None:
    ocp.PyTreeCheckpointer().save(root / "params", PARAMS)


def files_without_ocdbt(root: Path) -> None:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(root / "params", args=ocp.args.PyTreeSave(PARAMS))


def manager(folder: str, *steps: int, item: str | None = None) -> Callable[[Path], None]:
    """Steps of a CheckpointManager, of which the newest is right."""

    def write(root: Path) -> None:
        with ocp.CheckpointManager((root / folder).resolve()) as saved:
            for step in steps:
                tree = ocp.args.StandardSave(PARAMS if step == max(steps) else other())
                more = {"meta": ocp.args.JsonSave({"lr": 1.0})}
                saved.save(step, args=ocp.args.Composite(**{item: tree}, **more) if item else tree)

    return write


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "PyTreeCheckpointer": pytree_checkpointer,
    "a file for each array": files_without_ocdbt,
    "a manager in params": manager("params", 0),
    "a manager of several steps": manager("params", 2, 10),
    "a manager with an item": manager("params", 3, item="state"),
    "a manager with an item of any name": manager("params", 3, item="weights"),
    "a manager in the model's directory": manager(".", 2, 10),
    "a manager of params in the model's directory": manager(".", 7, item="params"),
    "a step in the model's directory": lambda root: save(root / "step_10", PARAMS),
    "a tree of another name": lambda root: save(root / "checkpoint", PARAMS),
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_what_orbax_tools_write_is_served(write, directory):
    write(directory)

    assert_same(loaded(directory), RIGHT)


def test_of_several_steps_the_newest_is_served_and_said(directory, caplog):
    manager("params", 2, 10)(directory)
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        loaded(directory)

    assert "params/10/default is served, and not read: params/2/default" in caplog.text


def test_of_several_steps_the_newest_that_fits_is_served_and_said(directory, caplog):
    manager("params", 2)(directory)
    save(directory / "params" / "10", {"half": PARAMS["mlp"]})
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(directory), RIGHT)

    assert "params/2/default is served, and not read: params/10 (" in caplog.text


def test_of_trees_that_may_each_be_the_weights_one_is_served_and_both_are_named(directory, caplog):
    save(directory / "one", PARAMS)
    save(directory / "two", other())
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(directory), RIGHT)

    assert "one is served, and not read: two" in caplog.text


def test_steps_of_a_training_run_beside_safetensors_are_not_served_and_said(directory, caplog):
    manager(".", 2)(directory)
    write_checkpoint(directory, tensors=random_tensors(seed=5), tokenizer=False)
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(directory), expected(random_tensors(seed=5)))

    assert "model.safetensors is served, and not read: 2/default" in caplog.text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_floats_are_cast(dtype, in_memory, directory):
    tree = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), PARAMS)
    wanted = {path: x.astype(jnp.dtype(dtype)).astype(np.float32) for path, x in RIGHT.items()}
    if in_memory:
        assert_same(loaded(CONFIG, tree), wanted)
    else:
        save(directory / "params", tree)
        assert_same(loaded(directory), wanted)


NO_FLOATS = (
    np.int8,
    np.uint8,
    np.int16,
    np.int32,
    np.int64,
    np.bool_,
    np.complex64,
    ml_dtypes.int4,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
)


@pytest.mark.parametrize("dtype", NO_FLOATS, ids=lambda x: np.dtype(x).name)
@pytest.mark.parametrize("place", ["orbax", "numpy", "jax", "nnx"])
def test_what_is_no_plain_float_is_refused_by_name(dtype, place, directory):
    flat = dict(RIGHT)
    flat["mlp/down/kernel"] = (RIGHT["mlp/down/kernel"] * 4).astype(dtype)
    params = unflatten(flat)
    if place == "orbax":
        save(directory / "params", jax.tree.map(jnp.asarray, params))
        name = jnp.asarray(flat["mlp/down/kernel"]).dtype.name
        message = raised(directory)
    else:
        given = params if place == "numpy" else jax.tree.map(jnp.asarray, params)
        name = flatten(given)["mlp/down/kernel"].dtype.name
        message = raised(CONFIG, as_variables(given) if place == "nnx" else given)

    assert (
        f"mlp/down/kernel has dtype {name}, of which jinfer reads bfloat16, float16, float32, float64"
        in message
    )
    assert "write it again" not in message


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_same_trees_are_served_from_memory(tree):
    assert_same(loaded(CONFIG, tree()), RIGHT)


@pytest.mark.parametrize(
    "leaf",
    ["text", object(), [[1.0], [1.0, 2.0]], jax.ShapeDtypeStruct((1, 32), jnp.float32)],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_array_is_refused_by_name(leaf):
    assert "final_norm/scale" in raised(CONFIG, unflatten({**RIGHT, "final_norm/scale": leaf}))


def test_a_deleted_array_is_refused_by_name():
    array = jnp.asarray(RIGHT["final_norm/scale"])
    array.delete()

    assert "a deleted array at final_norm/scale" in raised(
        CONFIG, unflatten({**RIGHT, "final_norm/scale": array})
    )


def test_a_checkpoint_without_arrays_is_not_told_to_be_written_again(directory):
    save(directory / "params", {"step": 5})

    message = raised(directory)
    assert "embedding/kernel is missing" in message
    assert "write it again" not in message
