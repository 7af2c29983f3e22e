"""Programs that were traced before are found on disk, and traced again where they cannot be used."""

import errno
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp

from jinfer.compilation import cache, traced_programs


def twice(x):
    return [x + x]


def trace(what: str, directory: Path):
    return traced_programs.traced(
        twice, [jax.ShapeDtypeStruct((2,), jnp.float32)], what, directory, jax.devices()[0]
    )


def test_a_damaged_trace_is_traced_again(tmp_path, caplog):
    trace("a step", tmp_path)
    (file,) = tmp_path.glob("step-*")
    file.write_bytes(b"no program")
    exported = trace("a step", tmp_path)
    assert exported.call(jnp.ones(2))[0].tolist() == [2, 2]
    assert "traced again" in caplog.text
    assert file.read_bytes() != b"no program"


def test_other_steps_and_other_sources_have_other_traces(tmp_path, monkeypatch):
    trace("a step", tmp_path)
    trace("another", tmp_path)
    monkeypatch.setattr(traced_programs, "_sources", lambda: "changed")
    trace("a step", tmp_path)
    assert len(list(tmp_path.glob("step-*"))) == 3


def test_a_full_disk_costs_the_next_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        cache.os, "replace", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    )
    assert trace("a step", tmp_path).call(jnp.ones(2))[0].tolist() == [2, 2]
    assert "No space left on device" in caplog.text
    assert "the next start traces the step again" in caplog.text
    assert not list(tmp_path.iterdir()), "no part of a file is left behind"
