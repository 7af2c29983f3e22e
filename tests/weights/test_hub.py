"""What is asked of the hub, and what its cache must hold: one on disk, as huggingface_hub writes it, and no
network."""

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
from huggingface_hub._snapshot_download import TreeCacheEntry, write_tree_cache
from huggingface_hub.utils import filter_repo_objects

from jinfer.errors import ModelNotFoundError
from jinfer.weights import hub
from jinfer.weights.hub import resolve_model_directory
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_json, write_shards
from tests.weights.loaded import assert_same, expected, loaded, raised

COMMIT = "a" * 40
REPOSITORY = "org/name"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = tuple(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
TENSORS = random_tensors()
TEXT = ("tokenizer.json", "tokenizer_config.json")
NEEDLESS = (
    "original/params.json",
    "original/consolidated.00.pth",
    "original/tokenizer.model",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "onnx/config.json",
    "onnx/model.safetensors",
    "README.md",
    ".gitattributes",
    "vocab.json",
    "training_args.bin",
    "model.gguf",
    "figures/a.json",
    "checkpoint-5/model.safetensors",
    "model.fp16.safetensors",
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, with a snapshot of REPOSITORY that is empty as yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--org--name"
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return root


def snapshot(cache: Path, *, sharded: bool = False, listed: Iterable[str] | None = None) -> Path:
    """Fills the cache with a whole model; `listed` is what it says of the repository beside that, if it says
    it."""
    folder = cache / "snapshots" / COMMIT
    write_checkpoint(folder, tensors=TENSORS)
    if sharded:
        (folder / SINGLE).unlink()
        write_shards(folder, TENSORS)
    if listed is not None:
        entry = TreeCacheEntry(size=1, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None)
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        write_tree_cache(str(cache), COMMIT, dict.fromkeys([*names, *listed], entry))
    return folder


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("listed", [None, (), NEEDLESS], ids=["no list", "a list", "a list with more"])
def test_a_cache_with_what_is_needed_is_enough(cache, sharded, listed):
    folder = snapshot(cache, sharded=sharded, listed=listed)

    assert resolve_model_directory(REPOSITORY) == folder
    assert_same(loaded(REPOSITORY), expected(TENSORS))


@pytest.mark.parametrize(("present", "other"), [(SINGLE, INDEX), (INDEX, SINGLE)])
def test_of_two_sources_the_one_in_the_cache_is_enough(cache, present, other):
    snapshot(cache, sharded=present == INDEX, listed=[other, *(SHARDS if other == INDEX else ())])

    assert_same(loaded(REPOSITORY), expected(TENSORS))


@pytest.mark.parametrize("names", [[SINGLE], [SHARDS[1]], list(SHARDS), [INDEX]], ids=str)
@pytest.mark.parametrize("is_listed", [True, False])
def test_weights_that_are_absent_are_named(cache, names, is_listed):
    folder = snapshot(cache, sharded=names != [SINGLE], listed=() if is_listed else None)
    for name in names:
        (folder / name).unlink()

    message = raised(REPOSITORY)
    assert all(name in message for name in names), message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_small_files_that_the_repository_has_and_the_cache_lacks_are_named(cache, name):
    folder = snapshot(cache, listed=[name])
    (folder / name).unlink(missing_ok=True)

    with pytest.raises(ModelNotFoundError, match=name):
        resolve_model_directory(REPOSITORY)


def test_a_cache_without_any_tokenizer_serves_token_ids_and_says_so(cache, caplog):
    folder = snapshot(cache, listed=())
    for name in TEXT:
        (folder / name).unlink()
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(REPOSITORY), expected(TENSORS))

    assert "tokenizer.json" in caplog.text


def test_an_adapter_that_the_cache_lacks_is_said(cache, caplog):
    snapshot(cache, listed=["adapter_config.json"])
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(REPOSITORY), expected(TENSORS))

    assert "adapter_config.json" in caplog.text


def test_a_config_needs_no_weights(cache):
    folder = snapshot(cache, listed=())
    (folder / SINGLE).unlink()

    assert resolve_model_directory(REPOSITORY, weights=False) == folder
    assert "embedding/kernel" in loaded(REPOSITORY, dummy_weights=True)


def test_a_model_that_is_nowhere_is_named(cache):
    with pytest.raises(ModelNotFoundError, match="org/other"):
        resolve_model_directory("org/other")


class Hub:
    """A repository that is asked for files by their patterns, as `snapshot_download` does it."""

    def __init__(self, files: Path, snapshot: Path) -> None:
        self.files, self.snapshot, self.fetched = files, snapshot, set[str]()

    def download(self, repository: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        assert repository == REPOSITORY
        assert revision in (None, COMMIT)
        names = [str(path.relative_to(self.files)) for path in self.files.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (self.snapshot / name).write_bytes((self.files / name).read_bytes())
            self.fetched.add(name)
        return str(self.snapshot)


@pytest.fixture
def online(tmp_path, monkeypatch) -> Hub:
    """A hub that has a model, in one file, and much that nobody needs."""
    files = write_checkpoint(tmp_path / "files", tensors=TENSORS)
    for name in NEEDLESS:
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_bytes(b"{}")
    hub_with_it = Hub(files, tmp_path / COMMIT)
    hub_with_it.snapshot.mkdir()
    monkeypatch.setattr(hub, "snapshot_download", hub_with_it.download)
    return hub_with_it


SMALL = {"config.json", *TEXT}


def test_what_is_fetched_is_what_is_read(online):
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, SINGLE}


def test_weights_are_left_on_the_hub_where_none_are_needed(online):
    resolve_model_directory(REPOSITORY, weights=False)

    assert online.fetched == SMALL


@pytest.mark.parametrize("names", [SHARDS, ("a[1].safetensors", "parts/b.safetensors")], ids=str)
def test_shards_are_those_that_the_index_names(online, names):
    (online.files / SINGLE).unlink()
    write_shards(online.files, TENSORS)
    (online.files / "model-00003-of-00003.safetensors").write_bytes(b"stale")
    index = (online.files / INDEX).read_text()
    (online.files / "parts").mkdir()
    for old, new in zip(SHARDS, names, strict=True):
        (online.files / old).rename(online.files / new)
        index = index.replace(old, new)
    (online.files / INDEX).write_text(index)
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, INDEX, *names}


def test_of_two_sources_one_is_fetched(online):
    write_shards(online.files, TENSORS)
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, INDEX, SINGLE}


def test_an_orbax_checkpoint_is_fetched_whole(online):
    (online.files / SINGLE).unlink()
    wanted = {"params/_METADATA", "params/d/0123", "params/ocdbt.process_0/d/4567"}
    for name in wanted:
        (online.files / name).parent.mkdir(parents=True, exist_ok=True)
        (online.files / name).write_bytes(b"{}")
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, *wanted}


def test_a_file_that_config_json_names_is_fetched(online):
    (online.files / SINGLE).rename(online.files / "mine.safetensors")
    write_json(online.files / "config.json", dict(CONFIG, transformers_weights="mine.safetensors"))
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, "mine.safetensors"}


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "adapter_config.json",
        "hf_quant_config.json",
    ],
)
def test_small_files_that_are_read_come_along(online, name):
    (online.files / name).parent.mkdir(exist_ok=True)
    write_json(online.files / name, {})
    resolve_model_directory(REPOSITORY)

    assert online.fetched == {*SMALL, SINGLE, name}
