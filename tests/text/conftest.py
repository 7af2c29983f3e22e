"""Real tokenizers from the data folder beside the checkout, and tiny ones, one per kind of decoder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from jinfer.text.tokenizer import Tokenizer
from tests.text.model_directories import tokenizer_json, write_directory

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def data_path(relative: str) -> Path:
    path = SHARED_DATA / relative
    if not path.exists():
        pytest.skip(f"needs {relative} in the data folder beside the checkout (shared/data)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    return data_path


@pytest.fixture(scope="session")
def qwen3() -> Tokenizer:
    return Tokenizer.from_directory(data_path("tokenizers/qwen3"))


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    return Tokenizer.from_directory(data_path("tokenizers/gpt2"))


@pytest.fixture(scope="session")
def stories() -> Tokenizer:
    return Tokenizer.from_directory(data_path("models/stories260K"))


def byte_level() -> Backend:
    """Every byte, some words, and added tokens of which one is not made of byte characters."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "Ġa", "Ġĉ", "âĤ", "¬!", "¬âĤ", "ï¿½", ""]
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|user|>"])
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("日本 語", normalized=False)])
    return backend


def sentence_pieces(decoder: decoders.Decoder) -> Backend:
    """Llama 2's layout: control tokens, 256 bytes, pieces with a leading space."""
    words = ["▁", "▁▁", "▁a", "a", "b", "ab", "▁he", "�", "€", "", "\n"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoder
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    template = {"single": "<s> $A", "pair": "<s> $A <s> $B", "special_tokens": [("<s>", 1)]}
    backend.post_processor = processors.TemplateProcessing(**template)
    return backend


def llama() -> Backend:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return sentence_pieces(decoders.Sequence(parts))


def llama_strip_two() -> Backend:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 0)]
    return sentence_pieces(decoders.Sequence(parts))


def gemma() -> Backend:
    return sentence_pieces(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    )


def fused_replace() -> Backend:
    return sentence_pieces(decoders.Sequence([decoders.Fuse(), decoders.Replace("aa", "b")]))


def strip_the_end() -> Backend:
    return sentence_pieces(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    )


def words(decoder: decoders.Decoder | None) -> Backend:
    pieces = [
        "[UNK]",
        "[CLS]",
        "he",
        "##llo",
        "##",
        "▁a",
        "▁",
        "▁▁b",
        "a</w>",
        ",",
        "'s",
        " do not",
        "x",
        "",
        "<pad>",
    ]
    backend = Backend(
        models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["[UNK]", "[CLS]"])
    return backend


TINY: dict[str, Callable[[], Backend]] = {
    "byte_level": byte_level,
    "llama": llama,
    "llama_strip_two": llama_strip_two,
    "gemma": gemma,
    "fused_replace": fused_replace,
    "strip_the_end": strip_the_end,
    "metaspace": lambda: words(decoders.Metaspace()),
    "word_piece": lambda: words(decoders.WordPiece()),
    "no_decoder": lambda: words(None),
    "bpe_decoder": lambda: words(decoders.BPEDecoder()),
    "ctc": lambda: words(decoders.CTC()),
}
NO_EXAMPLES = {"strip_the_end"}  # its decoder panics on empty text in tokenizers 0.23
REAL = ("qwen3", "gpt2", "stories")


@pytest.fixture(scope="session")
def tiny() -> dict[str, Tokenizer]:
    return {name: Tokenizer(build()) for name, build in TINY.items()}


@pytest.fixture(scope="session", params=[*(name for name in TINY if name not in NO_EXAMPLES), *REAL])
def any_tokenizer(request: pytest.FixtureRequest, tiny: dict[str, Tokenizer]) -> Tokenizer:
    name = request.param
    return tiny[name] if name in tiny else request.getfixturevalue(name)


@pytest.fixture
def from_files(tmp_path, tiny):
    """The llama-like tiny tokenizer with the given files around it."""
    return lambda **files: Tokenizer.from_directory(write_directory(tmp_path, tokenizer_json(tiny), **files))


@pytest.fixture(scope="session")
def auto_tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained
