"""Programs that were traced before are found on disk, and traced again where they cannot be used."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jinfer.compilation import traced_programs


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
