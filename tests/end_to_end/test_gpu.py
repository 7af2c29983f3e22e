"""What only a GPU can show: compiled kernels inside the whole engine."""

import jax
import pytest

import jinfer

pytestmark = pytest.mark.gpu

PROMPTS = ["Once upon a time", "Tom was sad because", "", "One day, a little girl named Lily found a"]
SMALL = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "progress": False}


def tokens(outputs: list[jinfer.RequestOutput]) -> list[tuple[int, ...]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("kernels", ["pallas", "xla"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_the_golden_story(stories260k, kernels, page_size):
    golden = (stories260k / "golden_greedy_200_tokens.txt").read_text()
    with jinfer.LLM(stories260k, dtype="float32", kernels=kernels, page_size=page_size, **SMALL) as llm:
        outputs = llm.generate(["", "Once upon", "Lily", "Tim and Sue went"], temperature=0, max_tokens=200)
        assert outputs[0].text == golden
        llm.check_integrity()


def test_tokens_do_not_depend_on_the_batch_the_chunk_or_the_pages():
    """In float32, where no two logits are as close as the rounding of another shape of the same sum."""
    results = []
    for options in (
        {},
        {"page_size": 1},
        {"max_num_batched_tokens": 4},
        {"num_pages": 14},
        {"kernels": "xla"},
    ):
        with jinfer.LLM(dtype="float32", **{**SMALL, **options}) as llm:
            results.append(tokens(llm.generate(PROMPTS, temperature=0.8, top_p=0.9, seed=7, max_tokens=40)))
            if not options:
                alone = [
                    tokens(llm.generate(p, temperature=0.8, top_p=0.9, seed=7, max_tokens=40))[0]
                    for p in PROMPTS
                ]
                assert alone == results[0]
            llm.check_integrity()
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8", "fp8_e4m3"])
def test_bfloat16_tells_a_story(kv_cache_dtype):
    with jinfer.LLM(kv_cache_dtype=kv_cache_dtype, **SMALL) as llm:
        (output,) = llm.generate("Once upon a time", temperature=0, max_tokens=60)
        assert len(output.outputs[0].token_ids) == 60
        assert output.text.isascii()


def test_closing_gives_the_memory_back():
    device = jax.devices()[0]
    before = device.memory_stats()["bytes_in_use"]
    with jinfer.LLM(num_pages=100_000, **SMALL) as llm:
        llm.generate("Once", max_tokens=4)
        assert device.memory_stats()["bytes_in_use"] > before + 10**9
    assert device.memory_stats()["bytes_in_use"] <= before + 10**6
