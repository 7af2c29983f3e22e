"""`python -m benchmarks.quantization.accuracy`, with scores that are known."""

import json
import math

import pytest

from benchmarks.quantization import accuracy
from jinfer.eval.perplexity import TextScore
from jinfer.eval.windows import WindowSizes


def score_of(nats):
    return TextScore(WindowSizes(8, 8), 1, 100, 13, 100, 400, 100 * nats)


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
