"""`LLM.as_completed`: each output as soon as its prompt has ended."""

import dataclasses

from jinfer import SamplingParams
from tests.end_to_end.llm.helpers import GREEDY, PROMPTS, RANDOM, TEXT, ids_of, is_idle


def test_outputs_come_as_they_end_and_are_those_of_generate(llm):
    params = [SamplingParams(**(GREEDY | {"max_tokens": count})) for count in (12, 3, 5, 2, 1)]
    indices, outputs = zip(*llm.as_completed(PROMPTS, params), strict=True)

    assert sorted(indices) == list(range(len(PROMPTS)))
    assert indices[:2] == (1, 2), "the first prompt is the longest, and holds one of two rows meanwhile"
    in_order = [output for _, output in sorted(zip(indices, outputs, strict=True), key=lambda each: each[0])]
    expected = llm.generate(PROMPTS, params)
    assert ids_of(in_order) == ids_of(expected)
    assert [output.text for output in in_order] == [output.text for output in expected]


def test_several_completions_are_one_output(llm):
    outputs = list(llm.as_completed([TEXT, TEXT], n=2, **RANDOM))

    assert sorted(index for index, _ in outputs) == [0, 1]
    assert all(output.finished and len(output.outputs) == 2 for _, output in outputs)


def test_an_output_is_whole_when_it_comes(llm):
    stream = llm.as_completed(PROMPTS, **GREEDY)
    _, first = next(stream)
    before = dataclasses.asdict(first)

    assert first.metrics.num_output_tokens == 12
    list(stream)
    assert dataclasses.asdict(first) == before


def test_closing_it_aborts_what_runs(llm):
    outputs = llm.as_completed(PROMPTS, **GREEDY)
    next(outputs)
    assert not is_idle(llm)
    outputs.close()
    assert is_idle(llm)
