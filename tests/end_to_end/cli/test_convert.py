"""`jinfer convert`."""

import pytest

from tests.checkpoints import CONFIG, random_tensors, write_checkpoint
from tests.end_to_end.cli.helpers import ENGINE, GREEDY, GREEDY_OPTIONS, TEXT


def test_what_is_converted_to_orbax_gives_the_same_tokens(run, directory, tmp_path, llm):
    out = tmp_path / "orbax"
    converted = run("convert", "--model", directory, "--to", "orbax", out)
    finished = run("generate", "--model", out, *ENGINE, "--prompt", TEXT, "--json", *GREEDY)

    assert (converted.status, converted.stdout) == (0, "")
    assert f"wrote {out} in float32; use it with --model {out}" in converted.stderr
    expected = llm.generate(TEXT, **GREEDY_OPTIONS)[0].outputs[0]
    assert finished.objects[0]["token_ids"] == list(expected.token_ids)
    assert finished.objects[0]["text"] == expected.text


def test_a_dtype_may_be_chosen(run, directory, tmp_path):
    finished = run(
        "convert", "--model", directory, "--to", "orbax", "--dtype", "bfloat16", tmp_path / "orbax"
    )

    assert finished.status == 0
    assert "in bfloat16" in finished.stderr


def test_nothing_is_overwritten(run, directory, tmp_path):
    finished = run("convert", "--model", directory, "--to", "orbax", tmp_path)

    assert (finished.status, finished.stdout) == (1, "")
    assert f"jinfer: error: {tmp_path} exists; name a directory that does not" in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/dev/full", "/dev/full/deeper"])
def test_a_place_that_cannot_be_written_is_refused_before_weights_are_read(
    run, directory, monkeypatch, place
):
    monkeypatch.setattr(
        "jinfer.cli.convert.choose_weights", lambda *given, **options: pytest.fail("it read them")
    )
    finished = run("convert", "--model", directory, "--to", "orbax", f"{place}/out")

    assert (finished.status, finished.stdout) == (1, "")
    assert f"jinfer: error: {place}/out cannot be made: /dev/full is no directory" in finished.stderr


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: 28")]
)
def test_a_disk_that_is_full_is_an_error_with_the_place(run, directory, tmp_path, monkeypatch, fault):
    def save(*arguments):
        raise fault

    monkeypatch.setattr("jinfer.weights.orbax.save_orbax", save)
    finished = run("convert", "--model", directory, "--to", "orbax", tmp_path / "out")

    assert (finished.status, finished.stdout) == (1, "")
    assert (
        f"jinfer: error: {tmp_path / 'out'} cannot be written: {fault}; remove what is there"
        in finished.stderr
    )


def test_a_dtype_that_is_none_is_refused(run, tmp_path):
    write_checkpoint(tmp_path / "model", config=dict(CONFIG, torch_dtype="auto"))
    finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

    assert finished.status == 1
    assert "jinfer: error: config.json names the dtype 'auto'; give --dtype" in finished.stderr
    assert not (tmp_path / "orbax").exists()


def test_weights_that_do_not_fit_leave_nothing_behind(run, tmp_path):
    write_checkpoint(tmp_path / "model", config=dict(CONFIG, num_hidden_layers=1), tensors=random_tensors())
    finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

    assert finished.status == 1
    assert "is not a tensor of the model" in finished.stderr
    assert not (tmp_path / "orbax").exists()
