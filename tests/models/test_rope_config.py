"""What config.json says of rotary embedding: types, places and spellings, what contradicts, and what is
malformed."""

import math
from typing import Any

import pytest

from jinfer.models.rope_config import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeConfig,
    YarnRopeScaling,
)
from tests.models.configs import ANY_ROPE, DEFAULT_THETAS, PHI3, QWEN2, attention_of, read, refusal

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT, LONG = [1.0, 1.5, 2.0, 4.0], [2.0, 4.0, 8.0, 16.0]  # head_dim is 8
FACTORS = {"short_factor": SHORT, "long_factor": LONG}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def longrope(factor: float, original: int, attention_factor: float) -> LongRopeScaling:
    return LongRopeScaling(factor, original, attention_factor, tuple(SHORT), tuple(LONG))


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1


SCALINGS: dict[str, tuple[dict[str, Any], Any]] = {
    "linear": ({"rope_type": "linear", "factor": 4}, LinearRopeScaling(4.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, DynamicRopeScaling(2.0, 128)),
    "llama3": (
        {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 64},
        Llama3RopeScaling(8.0, 1.0, 4.0, 64),
    ),
    "llama3, original absent": ({"rope_type": "llama3", **LLAMA3}, Llama3RopeScaling(8.0, 1.0, 4.0, 128)),
    "yarn": (YARN, YarnRopeScaling(4.0, 64, yarn_scale(4))),
    "yarn, original absent": ({"rope_type": "yarn", "factor": 2.0}, YarnRopeScaling(2.0, 128, yarn_scale(2))),
    "yarn, factor null": ({**YARN, "factor": None}, YarnRopeScaling(2.0, 64, yarn_scale(2))),
    "yarn, no extension": ({**YARN, "factor": 1.0}, YarnRopeScaling(1.0, 64, 1.0)),
    "yarn, attention_factor": ({**YARN, "attention_factor": 0.5}, YarnRopeScaling(4.0, 64, 0.5)),
    "yarn, mscale": (
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
        YarnRopeScaling(4.0, 64, yarn_scale(4, 0.7) / yarn_scale(4, 1.2)),
    ),
    "yarn, mscale alone": ({**YARN, "mscale": 0.7}, YarnRopeScaling(4.0, 64, yarn_scale(4))),
    "yarn, mscale_all_dim 0": (
        {**YARN, "mscale": 0.7, "mscale_all_dim": 0},
        YarnRopeScaling(4.0, 64, yarn_scale(4)),
    ),
    "yarn, betas": (
        {**YARN, "beta_fast": 16, "beta_slow": 2.0, "truncate": False},
        YarnRopeScaling(4.0, 64, yarn_scale(4), 16.0, 2.0, truncate=False),
    ),
    "yarn, betas null and 0": (
        {**YARN, "beta_fast": None, "beta_slow": 0},
        YarnRopeScaling(4.0, 64, yarn_scale(4), 32.0, 1.0),
    ),
    "longrope": (
        {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32},
        longrope(4.0, 32, math.sqrt(1 + math.log(4) / math.log(32))),
    ),
    "longrope, factor": (
        {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32, "factor": 2},
        longrope(2.0, 32, math.sqrt(1 + math.log(2) / math.log(32))),
    ),
    "longrope, attention_factor": (
        {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32, "attention_factor": 1.5},
        longrope(4.0, 32, 1.5),
    ),
    "longrope, original absent": ({"rope_type": "longrope", **FACTORS}, longrope(1.0, 128, 1.0)),
    "longrope, called su": ({"rope_type": "su", **FACTORS}, longrope(1.0, 128, 1.0)),
}


@pytest.mark.parametrize("architecture", ANY_ROPE)
@pytest.mark.parametrize("name", SCALINGS)
def test_every_type_is_read_in_every_family_and_spelling(name: str, architecture: str) -> None:
    entry, scaling = SCALINGS[name]
    expected = RopeConfig(5e5, scaling)
    old = {("type" if key == "rope_type" else key): value for key, value in entry.items()}
    both = {**entry, "type": entry["rope_type"]}
    options = {"head_dim": 8, "partial_rotary_factor": 1.0}
    assert (
        attention_of(read(architecture, **options, rope_parameters={**entry, "rope_theta": 5e5})).rope
        == expected
    )
    for spelled in (entry, old, both):
        assert (
            attention_of(read(architecture, **options, rope_theta=5e5, rope_scaling=spelled)).rope == expected
        )
        assert (
            attention_of(read(architecture, **options, rope_theta=5e5, rope_parameters=spelled)).rope
            == expected
        )
    theta = attention_of(read(architecture, **options, rope_scaling=entry)).rope.theta
    assert theta == DEFAULT_THETAS[architecture]


@pytest.mark.parametrize("name", ["yarn", "llama3", "longrope"])
def test_the_original_context_may_stand_beside_the_entry(name: str) -> None:
    entry, scaling = SCALINGS[name]
    original = entry["original_max_position_embeddings"]
    inside = {key: value for key, value in entry.items() if key != "original_max_position_embeddings"}
    assert (
        attention_of(read(rope_scaling=inside, original_max_position_embeddings=original)).rope.scaling
        == scaling
    )
    assert (
        attention_of(read(rope_scaling=entry, original_max_position_embeddings=original)).rope.scaling
        == scaling
    )
    message = refusal(rope_scaling=entry, original_max_position_embeddings=16)
    assert "original_max_position_embeddings 16" in message
    assert f"original_max_position_embeddings {original}" in message


# --- a part of a head


@pytest.mark.parametrize(
    ("entries", "rotary_dim"),
    [
        ({}, None),
        ({"partial_rotary_factor": 1.0}, None),
        ({"partial_rotary_factor": 0.5}, 4),
        ({"partial_rotary_factor": 0.3}, 2),  # 2.4 of 8, rounded down
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}, 6),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.75}}, 6),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5}, 4),
        ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, 4),
    ],
)
def test_the_first_dimensions_of_a_head_are_turned(entries: dict, rotary_dim: int | None) -> None:
    attention = attention_of(read(PHI3, **entries))
    assert attention.rotary_dim == rotary_dim
    assert attention.rope_table.rotary_dim == (rotary_dim or 8)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"partial_rotary_factor": 0.4}, "partial_rotary_factor 0.4; of 8 dimensions of a head it leaves 3"),
        ({"partial_rotary_factor": 0.1}, "it leaves 0"),
        ({"partial_rotary_factor": 1.25}, "it leaves 10"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor 0; it must be a finite number above 0"),
        (
            {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.75}},
            "partial_rotary_factor 0.5 and 0.75",
        ),
    ],
)
def test_a_part_that_cannot_be_turned_is_refused(entries: dict, said: str) -> None:
    assert said in refusal(PHI3, **entries)


def test_factors_of_longrope_are_those_of_the_dimensions_that_are_turned() -> None:
    entry = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}
    config = read(PHI3, rope_scaling=entry, original_max_position_embeddings=32, partial_rotary_factor=0.5)
    assert attention_of(config).rope.scaling.long_factors == (2.0, 4.0)
    message = refusal(
        PHI3,
        rope_scaling={"rope_type": "longrope", **FACTORS},
        original_max_position_embeddings=32,
        partial_rotary_factor=0.5,
    )
    assert "a list of 2 finite numbers" in message


@pytest.mark.parametrize("name", ["linear", "dynamic", "llama3", "yarn"])
def test_phi_3_has_longrope_alone(name: str) -> None:
    message = refusal(PHI3, rope_scaling=SCALINGS[name][0])
    assert type(SCALINGS[name][1]).__name__ in message
    assert "default and longrope" in message


def test_the_original_context_of_phi_3_must_be_said() -> None:
    """Its default there is 4096, and in other families max_position_embeddings."""
    entry, scaling = SCALINGS["longrope"]
    assert attention_of(read(PHI3, rope_scaling=entry)).rope.scaling == scaling
    inside = {key: value for key, value in entry.items() if key != "original_max_position_embeddings"}
    assert "no 'original_max_position_embeddings'" in refusal(PHI3, rope_scaling=inside)


# --- two entries

DEFAULT, LINEAR = {"rope_type": "default"}, {"rope_type": "linear", "factor": 4.0}
THETA = {"rope_theta": 1e6}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"rope_parameters": LINEAR, "rope_scaling": LINEAR}, RopeConfig(1e4, LinearRopeScaling(4.0))),
        ({"rope_parameters": LINEAR, "rope_scaling": None}, RopeConfig(1e4, LinearRopeScaling(4.0))),
        ({"rope_parameters": {}, "rope_scaling": LINEAR}, RopeConfig(1e4, LinearRopeScaling(4.0))),
        (
            {
                "rope_parameters": {**LINEAR, **THETA},
                "rope_scaling": {"type": "linear", "factor": 4},
                **THETA,
            },
            RopeConfig(1e6, LinearRopeScaling(4.0)),
        ),
        ({"rope_parameters": {**DEFAULT, **THETA}, "rope_scaling": DEFAULT, **THETA}, RopeConfig(1e6)),
        ({"rope_parameters": {**DEFAULT, "rope_theta": None}, "rope_theta": None}, RopeConfig(1e4)),
        (
            {"rope_parameters": YARN, "rope_scaling": {**YARN, "beta_fast": 32, "truncate": True}},
            RopeConfig(1e4, YarnRopeScaling(4.0, 64, yarn_scale(4))),
        ),
        (
            {"rope_parameters": {**LINEAR, "rope_theta": 1e4}, "rope_scaling": LINEAR},
            RopeConfig(1e4, LinearRopeScaling(4.0)),
        ),
    ],
)
def test_two_entries_that_agree_are_one(entries: dict, expected: RopeConfig) -> None:
    assert attention_of(read(QWEN2, **entries)).rope == expected


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ({"rope_parameters": DEFAULT, "rope_scaling": LINEAR}, ("rope_parameters", "rope_scaling")),
        ({"rope_parameters": LINEAR, "rope_scaling": DEFAULT}, ("rope_parameters", "rope_scaling")),
        (
            {"rope_parameters": LINEAR, "rope_scaling": {**LINEAR, "factor": 2.0}},
            ("rope_parameters", "rope_scaling"),
        ),
        (
            {"rope_parameters": {**LINEAR, **THETA}, "rope_scaling": LINEAR},
            ("rope_parameters", "rope_scaling"),
        ),
        (
            {"rope_parameters": YARN, "rope_scaling": {**YARN, "truncate": False}},
            ("rope_parameters", "rope_scaling"),
        ),
        (
            {"rope_parameters": {**DEFAULT, **THETA}, "rope_theta": 1e4},
            ("rope_theta 10000", "rope_theta 1000000"),
        ),
        (
            {"rope_scaling": {**LINEAR, **THETA}, "rope_theta": 1e4},
            ("rope_theta 10000", "rope_theta 1000000"),
        ),
        ({"rope_scaling": {**LINEAR, "type": "dynamic"}}, ("rope_type 'linear'", "type 'dynamic'")),
        (
            {"rope_parameters": {"rope_type": "default", "type": "yarn"}},
            ("rope_type 'default'", "type 'yarn'"),
        ),
    ],
)
def test_two_entries_that_differ_are_refused_by_both_names(entries: dict, names: tuple[str, str]) -> None:
    message = refusal(QWEN2, **entries)
    assert all(name in message for name in names), message
    assert "remove the one that does not hold" in message


# --- malformed entries


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"rope_type": "yarn"}, "'factor'"),
        ({"rope_type": "linear"}, "'factor'"),
        ({"rope_type": "linear", "factor": None}, "'factor'"),
        ({"rope_type": "dynamic"}, "'factor'"),
        ({"rope_type": "llama3", "factor": 8.0}, "'low_freq_factor'"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "'high_freq_factor'"),
        ({"rope_type": "longrope", "long_factor": LONG}, "'short_factor'"),
        ({"rope_type": "longrope", "short_factor": SHORT}, "'long_factor'"),
    ],
)
def test_a_missing_entry_of_a_type_is_named(entry: dict, name: str) -> None:
    message = refusal(rope_scaling=entry)
    assert f"rope_scaling of config.json has no {name}" in message
    assert "add it" in message


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"rope_type": 3}, "rope_type 3"),
        ({"rope_type": "ntk", "factor": 2.0}, "rope_type 'ntk'"),
        ({"type": "mrope", "mrope_section": [1, 1, 2]}, "type 'mrope'"),
        ({**LINEAR, "factor": "4.0"}, "factor '4.0'"),
        ({**LINEAR, "factor": 0}, "factor 0"),
        ({**LINEAR, "factor": -2.0}, "factor -2.0"),
        ({**LINEAR, "factor": True}, "factor True"),
        ({**LINEAR, "factor": float("nan")}, "factor nan"),
        ({**LINEAR, "factor": float("inf")}, "factor inf"),
        ({**LINEAR, "factor": [4.0]}, "factor [4.0]"),
        ({**LINEAR, "factor": 10**400}, "factor 1000"),
        ({**LINEAR, "rope_theta": "1e4"}, "rope_theta '1e4'"),
        ({**LINEAR, "rope_theta": 0}, "rope_theta 0"),
        ({**LINEAR, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({**LINEAR, "partial_rotary_factor": "1.0"}, "partial_rotary_factor '1.0'"),
        ({**YARN, "original_max_position_embeddings": 64.0}, "original_max_position_embeddings 64.0"),
        ({**YARN, "original_max_position_embeddings": 0}, "original_max_position_embeddings 0"),
        ({**YARN, "truncate": "false"}, "truncate 'false'"),
        ({**YARN, "truncate": None}, "truncate None"),
        ({**YARN, "beta_fast": -1}, "beta_fast -1"),
        ({**YARN, "attention_factor": "1"}, "attention_factor '1'"),
        ({**YARN, "mscale": [1.0], "mscale_all_dim": 1.0}, "mscale [1.0]"),
        ({"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor 1.0"),
        ({"rope_type": "longrope", **FACTORS, "short_factor": SHORT[:3]}, "short_factor [1.0, 1.5, 2.0]"),
        ({"rope_type": "longrope", **FACTORS, "long_factor": 4.0}, "long_factor 4.0"),
        ({"rope_type": "longrope", **FACTORS, "long_factor": ["1"] * 4}, "long_factor ['1'"),
        ({"rope_type": "longrope", **FACTORS, "long_factor": [1.0, 1.0, 1.0, 0]}, "long_factor [1.0"),
    ],
)
def test_a_malformed_entry_is_refused_with_its_value(entry: dict, name: str) -> None:
    for spelling in ("rope_scaling", "rope_parameters"):
        message = refusal(**{spelling: entry})
        assert f"{spelling} of config.json has {name}" in message


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", ["linear", [LINEAR], 4, True, False, 0, ""])
def test_what_is_no_object_is_refused(spelling: str, value: Any) -> None:
    assert f"config.json has {spelling} {value!r}; it must be an object" in refusal(**{spelling: value})


@pytest.mark.parametrize("theta", ["10000", 0, -1.0, True, [1e4], float("nan")])
def test_theta_is_a_number_above_0(theta: Any) -> None:
    assert f"rope_theta {theta!r}" in refusal(rope_theta=theta)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"factor": 4.0}, "factor 4.0"),
        ({**LINEAR, "long_factor": LONG}, "long_factor"),
        ({**YARN, "attn_factor": 2.0}, "attn_factor 2.0"),
        ({**DEFAULT, "mrope_section": [1, 1, 2]}, "mrope_section"),
    ],
)
def test_what_a_type_does_not_read_is_said(entry: dict, name: str, caplog) -> None:
    read(rope_scaling=entry)
    assert f"rope_scaling of config.json has {name}" in caplog.text


def test_what_a_type_reads_is_not_said(caplog) -> None:
    for entry, _ in SCALINGS.values():
        read(rope_scaling={**entry, "rope_theta": 1e4, "partial_rotary_factor": 1.0, "unknown": None})
    assert caplog.text == ""


# --- the context


@pytest.mark.parametrize(
    ("entry", "context"),
    [
        ({}, 128),
        (LINEAR, 512),
        ({**LINEAR, "factor": 0.5}, 128),
        ({"rope_type": "dynamic", "factor": 2.5}, 320),
        (
            {**YARN, "factor": 4.0},
            256,
        ),  # 64 were extended to 256, and max_position_embeddings is the training length
        ({**YARN, "factor": 2.0}, 128),  # max_position_embeddings is the extended length
        ({"rope_type": "yarn", "factor": 4.0}, 512),
        ({"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "longrope", **FACTORS, "factor": 4.0}, 512),
        ({"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 64}, 128),
    ],
)
def test_the_context_is_extended_as_the_type_does(entry: dict, context: int) -> None:
    config = read(rope_scaling=entry)
    assert (config.context_length, config.max_position_embeddings) == (context, 128)
