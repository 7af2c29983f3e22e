"""Two versions on one machine in turns."""

import json

import pytest

from benchmarks import turns
from benchmarks.record import REPOSITORY


def line(name, value, unit):
    return {
        "id": name,
        "value": value,
        "unit": unit,
        "limit": 1,
        "percent_of_limit": 50.0,
        "commit": "abc1234",
        "date": "2026-11-30",
        "versions": {"device": "a device"},
    }


@pytest.fixture
def earlier(tmp_path):
    (tmp_path / "earlier" / "jinfer").mkdir(parents=True)
    return tmp_path / "earlier"


@pytest.fixture
def values(monkeypatch):
    """By version, what each of its runs finds: a list of values by row."""
    found = {
        "earlier": [{"8b-b1": (4.0, "ms"), "8b-mixed256": (100.0, "tokens/s")}] * 3,
        "later": [
            {"qwen3-8b-b1": (value, "ms"), "8b-mixed256": (100.0, "tokens/s")} for value in (4.1, 9.0, 4.0)
        ],
    }
    order = []

    def bench(tree, words):
        version = "later" if tree == REPOSITORY else "earlier"
        order.append((version, *words))
        rows = found[version][sum(each[0] == version for each in order) - 1]
        return [turns.record.kept_line(line(name, *value)) for name, value in rows.items()]

    monkeypatch.setattr(turns, "bench", bench)
    return found, order


def test_the_median_of_turns_that_alternate_is_recorded(earlier, values, tmp_path, capsys):
    _, order = values
    file = tmp_path / "refactor.jsonl"
    words = ["--turns", "3", "--results", str(file), str(earlier), "latency", "b1", "--repeats", "2"]
    assert turns.main(words) == 1, "4.1 is above 1.015 times 4.0"

    assert [version for version, *_ in order] == ["later", "earlier", "earlier", "later", "later", "earlier"]
    assert {tuple(rest) for _, *rest in order} == {("latency", "b1", "--repeats", "2")}
    b1, mixed = map(json.loads, file.read_text().splitlines())
    assert (b1["id"], b1["value"], b1["percent_of_limit"]) == ("refactor-8b-b1", 1.025, 97.6)
    assert b1["values"] == {"earlier": [4.0] * 3, "later": [4.1, 9.0, 4.0], "unit": "ms"}
    assert b1["command"] == "python -m benchmarks.turns --turns 3 earlier latency b1 --repeats 2"
    assert (mixed["id"], mixed["value"]) == ("refactor-8b-mixed256", 1.0)


def test_more_tokens_per_second_are_less_time(earlier, values):
    found, _ = values
    found["later"][:] = [{"8b-mixed256": (125.0, "tokens/s")}] * 2
    assert turns.main([str(earlier), "throughput", "mixed256"]) == 0
    assert turns.compared("x", [line("x", 100.0, "tokens/s")], [line("x", 80.0, "tokens/s")])["value"] == 1.25


def test_rows_that_only_one_version_has_are_no_comparison(earlier, values):
    found, _ = values
    found["later"][:] = [{"8b-b2": (1.0, "ms")}] * 2
    assert turns.main([str(earlier), "latency", "b2"]) == 1


def test_each_version_runs_its_own_code(tmp_path):
    """Also where the current directory has another, as it has here."""
    package = tmp_path / "jinfer"
    package.mkdir()
    (package / "__init__.py").touch()
    found = line("8b-b1", 4.0, "ms")
    (package / "__main__.py").write_text(
        f"import json, sys\nprint(json.dumps({found!r} | {{'words': sys.argv[1:], 'file': __file__}}))"
    )
    (result,) = turns.bench(tmp_path, ["latency", "b1"])
    assert result["words"] == ["bench", "latency", "b1", "--json", "-"]
    assert result["file"] == str(package / "__main__.py")


def test_a_directory_without_jinfer_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        turns.main([str(tmp_path), "latency", "b1"])
    assert "there is no jinfer in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        turns.main([str(REPOSITORY)])
    assert "name a command of `jinfer bench`" in capsys.readouterr().err
