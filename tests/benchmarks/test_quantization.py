"""The comparison of quantized products with bfloat16, at a tiny shape."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernels.timing import chain_of
from benchmarks.quantization.__main__ import main
from benchmarks.quantization.rows import ROWS


@pytest.mark.parametrize("name", ["w4-m16", "mxfp4-m16"])
def test_a_row_is_a_line(name, capsys, tmp_path):
    assert main([name, "--smoke", "--record", "--results", str(tmp_path)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["id"], line["unit"]) == (name, "ratio")
    assert line["percent_of_limit"] == pytest.approx(100 * line["value"] / line["limit"], abs=0.1)
    assert {"commit", "date", "versions", "command"} <= line.keys()
    (file,) = tmp_path.rglob("quantization.jsonl")
    assert json.loads(file.read_text()) == line


def test_an_unknown_row_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main(["w5"])
    assert "no row is called w5; there are w4-m1," in capsys.readouterr().err


def test_rows_have_names_of_their_own():
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_only_the_first_argument_passes_the_barrier():
    """Scales that pass it are new to XLA, and not an argument that it may fuse."""

    def step(carry, arguments):
        x, scales = arguments
        return carry, x * scales

    x, scales = jnp.ones((4, 8)), jnp.ones(8)
    program = jax.make_jaxpr(chain_of(step, 3))((None, [x] * 3), [(x, scales)])
    barriers = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "optimization_barrier"]
    shapes = [[var.aval.shape for var in eqn.invars] for eqn in barriers]
    assert shapes == [[(4, 8)], [(4, 8), (4, 8)], [(4, 8), (4, 8)]]
