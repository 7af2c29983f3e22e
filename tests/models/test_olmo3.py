"""What OLMo 3's config.json says of windows, and of rotary embedding by the type of layer."""

from typing import Any

import pytest

from jinfer.models.rope_config import LinearRopeScaling, RopeConfig
from tests.models.configs import read, refusal, windows_of

OLMO3 = "Olmo3ForCausalLM"
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOWS = {"layer_types": TYPES, "sliding_window": 8}
LINEAR, DEFAULT = {"rope_type": "linear", "factor": 4.0}, {"rope_type": "default"}
FAST_LINEAR = {**LINEAR, "rope_theta": 1e6}


def ropes(**entries: Any) -> tuple[RopeConfig | None, ...]:
    """The rotary embedding of a sliding and a full layer."""
    sliding, full, _ = read(OLMO3, **WINDOWS, **entries).layers
    return sliding.attention.rope, full.attention.rope


def test_three_layers_in_four_have_a_window_where_the_file_does_not_say() -> None:
    assert windows_of(read(OLMO3, num_hidden_layers=5)) == (4096, 4096, 4096, None, 4096)
    assert windows_of(read(OLMO3, **WINDOWS)) == (8, None, 8)
    assert "sliding_window is null" in refusal(OLMO3, sliding_window=None)


@pytest.mark.parametrize(
    ("entries", "sliding", "full"),
    [
        ({}, RopeConfig(5e5), RopeConfig(5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeConfig(5e5), RopeConfig(5e5)),
        ({"rope_scaling": LINEAR}, RopeConfig(5e5), RopeConfig(5e5, LinearRopeScaling(4.0))),
        (
            {"rope_parameters": {"full_attention": LINEAR}},
            RopeConfig(5e5),
            RopeConfig(5e5, LinearRopeScaling(4.0)),
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": DEFAULT,
                    "sliding_attention": FAST_LINEAR,
                }
            },
            RopeConfig(1e6, LinearRopeScaling(4.0)),
            RopeConfig(5e5),
        ),
    ],
)
def test_rotary_embedding_is_by_type_and_scaling_of_full_layers(
    entries: dict, sliding: RopeConfig, full: RopeConfig
) -> None:
    assert ropes(**entries) == (sliding, full)


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ({"rope_theta": 1e6}, "rope_theta 1000000.0"),
        ({"rope_parameters": {**LINEAR, "rope_theta": 1e6}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": LINEAR}, "rope_scaling": LINEAR}, "rope_scaling"),
    ],
)
def test_what_transformers_reads_otherwise_is_refused(entries: dict, name: str) -> None:
    assert name in refusal(OLMO3, **WINDOWS, **entries)


@pytest.mark.oracle
def test_transformers_has_a_theta_of_its_own_for_sliding_layers() -> None:
    transformers = pytest.importorskip("transformers")
    by_type = transformers.Olmo3Config(rope_theta=1e6).rope_parameters
    assert (by_type["full_attention"]["rope_theta"], by_type["sliding_attention"]["rope_theta"]) == (1e6, 5e5)
