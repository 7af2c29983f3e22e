"""The demo model's training script, end to end on text made up here: it must learn and write a usable
directory."""

import importlib
import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from tests.conftest import COMPILES_FAST

pytest.importorskip("optax", reason="optax trains the demo model; install jinfer[train]")

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NUM_VALIDATION_STORIES = 4
MAX_DIRECTORY_BYTES = 16 * 2**20


def made_up_story(rng: random.Random) -> str:
    name, animal, place = (
        rng.choice(["Lily", "Tom", "Mia"]),
        rng.choice(["dog", "cat"]),
        rng.choice(["park", "wood"]),
    )
    lines = [
        f"Once upon a time, {name} had a little {animal}.",
        f'"Let us go to the {place}," said {name} to the {animal}.',
        f"They went to the {place} and played all day. The {animal} was happy.",
    ]
    return "\n\n".join(lines[: rng.randint(2, 3)])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    stories = [made_up_story(rng) for _ in range(60)]
    (folder / "tinystories_1000.json").write_text(json.dumps(stories), encoding="utf-8")
    tale = "A king had three sons.\n\n\u2018Go,\u2019 said the king\u2019s\nfox, \u2018and see.\u2019"
    (folder / "GrimmsFairyTales.txt").write_text(
        f"THE FOX\n\n\n{tale}\n\nTHE CAT\n\n{tale}", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a tiny run, and what it reported."""
    out = tmp_path_factory.mktemp("demo_model")
    command = [
        sys.executable,
        TOOLS / "train_demo_model.py",
        "--preset",
        "tiny",
        "--data",
        texts,
        "--out",
        out,
    ]
    environment = {**os.environ, **COMPILES_FAST}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(TOOLS)
    return lambda name: importlib.import_module(f"_demo_training.{name}")


def expected_shapes(config: dict) -> dict[str, list[int]]:
    """Qwen3's tensors as Hugging Face names and lays them out: linear weights are [out, in]."""
    hidden, ffn, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    num_q, num_kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    layer = {
        "self_attn.q_proj": [num_q, hidden],
        "self_attn.k_proj": [num_kv, hidden],
        "self_attn.v_proj": [num_kv, hidden],
        "self_attn.o_proj": [hidden, num_q],
        "self_attn.q_norm": [dim],
        "self_attn.k_norm": [dim],
        "mlp.gate_proj": [ffn, hidden],
        "mlp.up_proj": [ffn, hidden],
        "mlp.down_proj": [hidden, ffn],
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
    }
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def test_validation_loss_falls_well_below_uniform(run: tuple[Path, str]) -> None:
    folder, report = run
    losses = [float(loss) for loss in re.findall(r"validation (\d+\.\d+)", report)]
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert losses[-1] < losses[0] < math.log(vocab_size)
    assert losses[-1] < 0.5 * math.log(vocab_size)


def test_weights_have_hugging_face_names_shapes_and_dtype(run: tuple[Path, str]) -> None:
    folder, _ = run
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"]
    with safe_open(folder / "model.safetensors", framework="numpy") as stored:
        slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118, safe_open is no mapping
        assert {name: piece.get_shape() for name, piece in slices.items()} == expected_shapes(config)
        assert {piece.get_dtype() for piece in slices.values()} == {"BF16"}


def test_tokenizer_begins_like_a_document_and_round_trips(run: tuple[Path, str]) -> None:
    folder, _ = run
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.encode("").ids == [config["bos_token_id"]]
    text = 'Once upon a time,\n\n"Z\u00fcrich \u2603?" said Tom.'
    ids = tokenizer.encode(text).ids
    assert ids[0] == config["bos_token_id"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text).ids == ids, "the stored tokenizer must not drop merges at random"


def test_directory_is_small_and_readable_by_everybody(run: tuple[Path, str]) -> None:
    files = list(run[0].iterdir())
    assert sum(file.stat().st_size for file in files) <= MAX_DIRECTORY_BYTES
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_card_reports_this_run_and_no_path_of_the_machine(run: tuple[Path, str], texts: Path) -> None:
    folder, report = run
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"stored weights: (\d+\.\d+) nats", report)[1] in card
    assert f"{NUM_VALIDATION_STORIES} more held out" in card
    assert "`python tools/train_demo_model.py --preset tiny`" in card
    assert not any(str(path) in card for path in (folder, texts, TOOLS.parent))


@pytest.mark.oracle
def test_transformers_computes_the_loss_on_the_card(run: tuple[Path, str], texts: Path, part) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle; install jinfer[oracle]")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is the oracle; install jinfer[oracle]"
    )
    folder, report = run
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stories = part("texts").read_corpus(texts, NUM_VALIDATION_STORIES, seed=0).validation_stories
    losses = []
    for document in part("rows").encode_documents(tokenizer, stories):
        length = model.config.max_position_embeddings
        for piece in part("rows").cut(document, length, length):
            ids = torch.tensor([piece])
            with torch.no_grad():
                logits = model(ids[:, :-1]).logits[0]
            losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    reported = float(re.search(r"stored weights: (\d+\.\d+) nats", report)[1])
    assert np.mean(losses) == pytest.approx(reported, abs=1e-4)


def test_pieces_cover_every_target_once(part) -> None:
    assert part("rows").cut([0, 1, 2, 3, 4, 5, 0], 3, 2) == [[0, 1, 2], [2, 3, 4, 5], [5, 0]]
    assert part("rows").cut([0, 1, 0], 3, 3) == [[0, 1, 0]]


def test_packed_rows_keep_documents_apart(part) -> None:
    rows = part("rows").pack([[0, 7, 8, 0], [0, 9, 0]], row_length=6)
    np.testing.assert_array_equal(rows.inputs, [[0, 7, 8, 0, 9, 0]])
    np.testing.assert_array_equal(rows.targets, [[7, 8, 0, 9, 0, 0]])
    np.testing.assert_array_equal(rows.positions, [[0, 1, 2, 0, 1, 0]])
    np.testing.assert_array_equal(rows.segments, [[1, 1, 1, 2, 2, 0]])


def test_a_packed_document_is_computed_as_if_alone(part) -> None:
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    settings, model = part("settings").TINY, part("model")
    params = model.init_params(settings, jax.random.key(0))
    together, alone = part("rows").pack([[0, 7, 8, 0], [0, 9, 4]], 6), part("rows").pack([[0, 9, 4]], 6)
    of_both = model.forward(params, together, settings, jnp.float32)
    of_one = model.forward(params, alone, settings, jnp.float32)
    np.testing.assert_allclose(of_both[0, 3:5], of_one[0, :2], rtol=1e-4, atol=1e-6)


def test_cleaning_gives_one_ascii_typography(part) -> None:
    clean_story, split_tales = part("texts").clean_story, part("texts").split_tales
    garbled = "\u201cI can\u2019t \u2014 no\u201d".encode().decode("cp1252", errors="ignore")
    assert clean_story(f"{garbled}\nhe said.") == '"I can\'t - no"\n\nhe said.'
    tale = "A TITLE\n\n\u2018I can\u2019t,\u2019 said\nhe.\n\nANOTHER\n\nThe dogs\u2019 end."
    assert split_tales(tale) == ['"I can\'t," said he.', "The dogs' end."]


def test_renaming_is_consistent_and_keeps_the_group(part) -> None:
    texts = part("texts")
    renamed = texts.rename("Lily met Tom. Lily's Tommy ran.", random.Random(0))
    girl, boy, same_girl, other_boy = re.fullmatch(r"(\w+) met (\w+)\. (\w+)'s (\w+) ran\.", renamed).groups()
    assert girl == same_girl
    assert girl in texts.GIRLS
    assert len({boy, other_boy} & set(texts.BOYS)) == 2


def test_a_missing_text_is_named_with_the_remedy(part, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"tinystories_1000\.json: give the folder that holds it with --data"
    ):
        part("texts").read_corpus(tmp_path, NUM_VALIDATION_STORIES, seed=0)
