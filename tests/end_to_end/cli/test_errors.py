"""What is wrong: a line on stderr, nothing on stdout, and an exit status that tells."""

import os
import subprocess
import sys

import numpy as np
import pytest

from jinfer import cli
from jinfer.execution.executor import Executor
from tests.checkpoints import CONTEXT, random_tensors, write_checkpoint
from tests.end_to_end.cli.helpers import ENGINE, GREEDY, REPOSITORY, TEXT


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--prompt", "x " * 40), (f"the context holds {CONTEXT}", "shorten the prompt")),
        (("--prompt", "x " * 40, "--echo"), (f"the context holds {CONTEXT}", "shorten the prompt")),
        (("--prompt", TEXT, "--prompt-token-ids", "300", "--json"), ("prompts[1]", "token id 300")),
        (("--prompt", TEXT, "--temperature", "nan"), ("temperature=nan", "from 0 to 2")),
        (("--prompt", TEXT, "--n", "2", "--temperature", "0"), ("n=2", "use n=1")),
        (("--prompt", TEXT, "--page-size", "0"), ("page_size=0", "from 1")),
        (("--prompt", TEXT, "--num-pages", "2000000000"), ("GB", "lower num_pages")),
        (("--prompt", TEXT, "--max-model-len", "65"), ("max_model_len=65", "lower it to 64")),
        (
            ("--prompt", TEXT, "--num-pages", "3", "--max-model-len", "20"),
            ("hold 8 tokens", "max_model_len=20"),
        ),
        (("--prompt", TEXT, "--max-num-seqs", "17"), ("max_num_seqs=17", "max_num_batched_tokens=16")),
        ((), ("nothing to complete", "--prompt TEXT")),
        (("--prompt-token-ids", "1,-2"), ("token id -2", "from 0 to 299")),
        (("--prompt-token-ids=-1,2",), ("token id -1", "from 0 to 299")),
        (("--prompt-token-ids", "9" * 18), ("token id 999", "from 0 to 299")),
        (("--prompt", "a\udce9"), ("lone surrogate", "remove it")),
        (("--prompt", TEXT, "--prompt", "a\udce9"), ("prompts[1]", "lone surrogate")),
        (("--prompt", TEXT, "--min-tokens", "99"), ("min_tokens=99", "context of 64")),
        (("--prompt", TEXT, "--min-tokens", "9", "--max-tokens", "8"), ("min_tokens=9", "max_tokens=8")),
        (("--prompt", TEXT, "--max-tokens", "0"), ("max_tokens=0", "from 1")),
        (("--prompt", TEXT, "--n", "0"), ("n=0", "from 1 to 128")),
        (("--prompt", TEXT, "--seed", "-1"), ("seed=-1", "from 0")),
        (("--prompt", TEXT, "--seed", str(2**64)), (f"seed={2**64}", "from 0")),
        (("--prompt", TEXT, "--temperature", "1e400"), ("temperature=inf", "from 0 to 2")),
        (("--prompt", TEXT, "--top-p", "0"), ("top_p=0.0", "above 0")),
        (("--prompt", TEXT, "--top-k", "-2"), ("top_k=-2", "from -1")),
        (("--prompt", TEXT, "--min-p", "1.5"), ("min_p=1.5", "from 0 to 1")),
        (("--prompt", TEXT, "--stop", ""), ("stop=''", "1 to 1024")),
        (("--prompt", TEXT, *(["--stop", "a"] * 17)), ("17 stop strings", "at most 16")),
        (("--prompt", TEXT, "--logprobs", "21", "--json"), ("logprobs=21", "from 0 to 20")),
        (("--prompt", TEXT, "--logprobs", "2"), ("--logprobs 2", "add --json")),
        (("--prompt", TEXT, "--prompt-logprobs", "2"), ("--prompt-logprobs 2", "add --json")),
        (("--prompt", TEXT, "--prompt-logprobs", "-1", "--json"), ("prompt_logprobs=-1", "from 0 to 20")),
        (("--prompt", TEXT, "--presence-penalty", "2.5"), ("presence_penalty=2.5", "from -2 to 2")),
        (("--prompt", TEXT, "--repetition-penalty", "0"), ("repetition_penalty=0.0", "from 0.001 to 1000")),
        (("--prompt", TEXT, "--bad-words", ""), ("bad_words=''", "1 to 256")),
        (("--prompt", TEXT, "--structured-outputs", '{"regexp": "a"}'), ("'regexp'", "exactly one of json")),
    ],
)
def test_what_is_wrong_is_on_stderr_and_nothing_is_on_stdout(start, arguments, parts):
    finished = start(*arguments)

    assert (finished.status, finished.stdout) == (1, "")
    (line,) = (line for line in finished.stderr.splitlines() if line.startswith("jinfer: error: "))
    assert all(part in line for part in parts)
    assert "Traceback" not in finished.stderr
    assert "loading the weights" not in finished.stderr


def test_a_default_of_the_model_that_an_option_contradicts(run, tmp_path):
    write_checkpoint(tmp_path, generation_config={"temperature": 0})
    finished = run("generate", "--model", tmp_path, *ENGINE, "--prompt", TEXT, "--n", "2")

    assert finished.status == 1
    assert "jinfer: error: n=2 with temperature 0" in finished.stderr
    assert "loading the weights" not in finished.stderr


@pytest.mark.parametrize("words", [("--prompt", TEXT), ("--prompt-token-ids", "5", "--stop", "a")])
def test_text_for_a_model_without_a_tokenizer(run, tmp_path, words):
    write_checkpoint(tmp_path, tokenizer=False)
    finished = run("generate", "--model", tmp_path, *ENGINE, *words)

    assert finished.status == 1
    assert "a tokenizer, and the model has none; pass token ids" in finished.stderr
    assert "loading the weights" not in finished.stderr


def test_a_model_that_is_not_there(run, tmp_path):
    finished = run("generate", "--model", tmp_path / "nowhere", "--prompt", TEXT)

    assert (finished.status, finished.stdout) == (1, "")
    assert finished.stderr.startswith("jinfer: error: ")
    assert "is not a directory" in finished.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("generate", "--prompt", TEXT, "--model", "x" * 5000), "File name too long"),
        (("convert", "--model", "x", "--to", "orbax", "x" * 5000), "File name too long"),
        (("bench", "latency", "b1", "--config", "x" * 5000), "File name too long"),
    ],
)
def test_what_the_system_refuses_is_a_line(run, words, reason):
    finished = run(*words)

    (line,) = finished.stderr.splitlines()
    assert line.startswith("jinfer: error: ")
    assert reason in line
    assert (finished.status, finished.stdout) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--prompt", TEXT, "--temprature", "1"), "--temprature"),
        (("--prompt-token-ids", "5,x"), "'5,x' is not a list of token ids such as 1,2,3"),
        (("--prompt-token-ids", ""), "'' is not a list of token ids such as 1,2,3"),
        (("--prompt-token-ids", "1,,2"), "'1,,2' is not a list of token ids"),
        (("--prompt-token-ids", "1 2"), "'1 2' is not a list of token ids"),
        (("--prompt-token-ids", "1_0"), "'1_0' is not a list of token ids"),
        (("--prompt-token-ids", "٣"), "is not a list of token ids"),
        (
            ("--prompt-token-ids", "9" * 5000),
            "...' is not a list of token ids such as 1,2,3; an id is a number of",
        ),
        (("--prompt", TEXT, "--max-tokens", "9" * 5000), "invalid int value"),
        (("--prompt", TEXT, "--dtype", "int4"), "int4"),
        (("--prompt", TEXT, "--max-tokens", "many"), "many"),
        (("--prompt", TEXT, "--max-model-len", "long"), "'long' is neither a number of tokens nor auto"),
    ],
)
def test_an_option_that_cannot_be_read_exits_with_2(start, capsys, arguments, part):
    with pytest.raises(SystemExit) as caught:
        start(*arguments)

    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    assert part in captured.err


def test_ctrl_c_while_jax_is_imported(tmp_path):
    (tmp_path / "jax.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "jinfer", "generate", "--prompt", TEXT],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "jinfer: interrupted\n")


def test_no_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])

    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_a_request_that_fails_on_the_way_is_told_with_its_reason(run, tmp_path, as_json):
    tensors = random_tensors() | {"lm_head.weight": np.full((300, 32), np.nan, np.float32)}
    write_checkpoint(tmp_path, tensors=tensors)
    words = ("--json",) if as_json else ()
    finished = run("generate", "--model", tmp_path, *ENGINE, "--prompt", TEXT, *GREEDY, *words)

    assert finished.status == 1
    assert "jinfer: error: " in finished.stderr
    assert "logits that are not finite" in finished.stderr
    if as_json:
        assert finished.objects[0]["finish_reason"] == "error"
    else:
        assert finished.stdout == ""


@pytest.mark.parametrize(
    ("fault", "status", "line"),
    [
        (RuntimeError("the device fell over"), 1, "jinfer: error: the engine failed"),
        (KeyboardInterrupt(), 130, "jinfer: interrupted"),
    ],
)
def test_faults_and_ctrl_c_end_it_without_a_traceback(generate, monkeypatch, fault, status, line):
    def fail(*arguments):
        raise fault

    monkeypatch.setattr(Executor, "dispatch", fail)
    finished = generate("--prompt", TEXT, *GREEDY)

    assert (finished.status, finished.stdout) == (status, "")
    assert line in finished.stderr
    assert "Traceback" not in finished.stderr
