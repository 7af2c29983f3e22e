"""The tokens that fit, by the type of the cache."""

import json

from benchmarks.kv_capacity import capacity_lines, main
from jinfer.weights.hub import DEMO_MODEL


def test_a_line_for_each_type_in_8_bits(capsys):
    assert main([str(DEMO_MODEL)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == ["kv8-capacity", "kv8-capacity-fp8"]
    assert {"commit", "date", "versions", "command"} <= lines[0].keys()


def test_the_value_is_the_ratio_of_tokens():
    line, _ = capacity_lines({"auto": 1000, "int8": 1940, "fp8_e4m3": 1930})
    assert (line["value"], line["limit"], line["percent_of_limit"]) == (1.94, 2.0, 97.0)
