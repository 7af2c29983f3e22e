"""Tuned blocks as data: what is in the tree fits its kernels, and what is not there is served by a
heuristic."""

import importlib
import json
from pathlib import Path

import jax
import pytest

import pallas_kernels
from pallas_kernels.core import tuned
from pallas_kernels.core.device import Device, target_device
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_blocks, decode_key

ROOT = Path(pallas_kernels.__file__).parent
FILES = sorted(ROOT.glob("*/tuned/*.json"))
TUNING_MODULES = {  # of functions whose op has several; elsewhere it is the op's tuning.py
    **{name: f"pallas_kernels.paged_attention.{name}.tuning" for name in ("decode", "extend")},
    "choice": "pallas_kernels.matmul.choice",
    "quantized": "pallas_kernels.matmul.quantized.tuning",
}
CALL = DecodeCall(64, 32, 8, 128, page_size=16, max_positions=2048, itemsize=2)


@pytest.fixture
def on_device(monkeypatch):
    def choose(kind: str, num_multiprocessors: int = 132) -> None:
        device = Device(kind, num_multiprocessors)
        monkeypatch.setattr(tuned, "target_device", lambda: device)
        monkeypatch.setattr(
            importlib.import_module(TUNING_MODULES["decode"]), "target_device", lambda: device
        )

    return choose


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_what_is_kept_is_what_the_kernels_ask_for(file, monkeypatch):
    """Every entry has its function's key and blocks, and is what the function chooses for the shape of that
    key."""
    op = file.parts[-3]
    device = Device(file.stem.replace("-", " "), 132)
    monkeypatch.setattr(tuned, "target_device", lambda: device)
    for function, entries in json.loads(file.read_text()).items():
        tuning = importlib.import_module(TUNING_MODULES.get(function, f"pallas_kernels.{op}.tuning"))
        keys = [tuple(entry["key"].items()) for entry in entries]
        assert len(set(keys)) == len(keys), "one entry a key"
        for entry in entries:
            call = getattr(tuning, f"{function.title().replace('_', '')}Call", None)
            facts = list(entry["key"].values()) if call is None else [call(**entry["key"])]
            assert getattr(tuning, f"{function}_key")(*facts) == entry["key"]
            chosen = getattr(tuning, f"{function}_blocks")(*facts)
            assert chosen == type(chosen)(**entry["blocks"])


def test_there_is_data_for_an_h200():
    assert {file.stem for file in FILES} >= {"nvidia-h200"}


def test_an_unknown_device_is_served_by_the_heuristic(on_device):
    on_device("NVIDIA H200")
    assert tuned.tuned_blocks("paged_attention", "decode", decode_key(CALL), DecodeBlocks) is not None
    on_device("Some GPU of tomorrow", num_multiprocessors=200)
    assert tuned.tuned_blocks("paged_attention", "decode", decode_key(CALL), DecodeBlocks) is None
    assert isinstance(decode_blocks(CALL), DecodeBlocks)


def test_splits_follow_the_multiprocessors(on_device):
    call = CALL._replace(rows=1, max_positions=65_536)
    splits = []
    for num_multiprocessors in (40, 80, 160):
        on_device("Some GPU", num_multiprocessors)
        splits.append(decode_blocks(call).num_splits)
    assert splits == sorted(set(splits)), "the more multiprocessors, the more splits of a long row"


def test_the_device_is_that_of_the_mesh_that_is_compiled_for():
    assert target_device().kind == jax.devices()[0].device_kind
    described = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=described)
    with jax.sharding.use_abstract_mesh(mesh):
        assert target_device() == Device("NVIDIA H200", 132)
        assert target_device().file_name == "nvidia-h200"
