"""`python -m benchmarks.quantization.accuracy`, with scores that are known."""

import dataclasses
import json
import math

import numpy as np
import pytest

from benchmarks.quantization import accuracy
from jinfer.eval.perplexity import TextScore
from jinfer.eval.windows import WindowSizes


def score_of(nats):
    return TextScore(WindowSizes(50, 50), 1, 100, 400, (50, 50), (50 * nats, 50 * nats))


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """The texts that were scored, and the words of each conversion; each case is a hundredth worse."""
    texts, words = [], []

    def score(directory, content, max_tokens, cache="auto"):
        texts.append((content, max_tokens, cache))
        return score_of(2 + math.log1p(0.01 * (len(texts) - 1)))

    def convert(arguments):
        words.append(arguments)
        return 0

    monkeypatch.setattr(accuracy, "score", score)
    monkeypatch.setattr(accuracy.cli, "main", convert)
    (tmp_path / "stories.json").write_text(json.dumps(["one", "two", "three", "four"]))
    return texts, words, tmp_path / "stories.json"


def test_every_case_is_converted_and_compared_with_the_floats(scored, capsys):
    texts, words, stories = scored
    accuracy.main(["--stories", str(stories), "--group-size", "32", "--max-tokens", "7"])

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["weights"] for line in lines] == ["floats", *accuracy.CASES]
    assert [line["percent_above"] for line in lines] == pytest.approx(range(len(lines)), abs=1e-9)
    assert [line["percent_standard_error"] for line in lines] == pytest.approx([0] * len(lines), abs=1e-9)
    rivals = {line["weights"]: line["percent_above_rival"] for line in lines if "percent_above_rival" in line}
    nearest = lines[-3]["percent_above"] + 100
    assert rivals == {"W4A16, AWQ": pytest.approx(100 / nearest)}, "a hundredth of the floats' above nearest"
    cases = accuracy.CASES.values()
    assert texts == [("three\n\nfour", 7, cache) for cache in ["auto", *(case.cache for case in cases)]]
    assert len(words) == sum(case.weights != () for case in cases)
    assert [("--group-size" in each) for each in words] == ["int4" in each for each in words]
    assert all(
        each[each.index("--calibration") + 1].endswith(".txt") for each in words if "--calibration" in each
    )
    assert lines[0]["command"].endswith(f"--stories {stories} --group-size 32 --max-tokens 7")


def test_a_conversion_that_fails_ends_the_run(scored, monkeypatch):
    monkeypatch.setattr(accuracy.cli, "main", lambda words: 1)
    with pytest.raises(SystemExit, match="jinfer convert"):
        accuracy.main(["--stories", str(scored[2])])


def test_one_case_is_chosen(scored, capsys):
    accuracy.main(["--stories", str(scored[2]), "--case", "floats, int8 cache"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["weights"] for line in lines] == ["floats", "floats, int8 cache"]
    assert not scored[1], "nothing is converted"


def test_the_standard_error_is_that_of_differences_of_windows():
    """Of equal windows it is the usual one of a mean, whatever windows have in common."""
    difference = np.array([0.3, -0.1, 0.2, 0.4])
    one = TextScore(WindowSizes(10, 10), 1, 40, 160, (10,) * 4, (20.0, 35.0, 8.0, 17.0))
    other = dataclasses.replace(one, window_nlls=tuple(np.add(one.window_nlls, 10 * difference)))
    expected = difference.std(ddof=1) / 2
    assert accuracy.standard_error(other, one) == pytest.approx(expected)
    assert accuracy.percent_above(other, one, "")["percent_above"] == pytest.approx(100 * math.expm1(0.2))


def test_a_window_counts_by_its_tokens():
    one = TextScore(WindowSizes(10, 10), 1, 15, 60, (10, 5), (20.0, 10.0))
    same_for_each_token = dataclasses.replace(one, window_nlls=(21.0, 10.5))
    assert accuracy.standard_error(same_for_each_token, one) == pytest.approx(0, abs=1e-12)


def test_one_window_has_no_standard_error():
    one = TextScore(WindowSizes(10, 10), 1, 10, 40, (10,), (20.0,))
    assert accuracy.standard_error(one, one) is None
