"""The folders in which Orbax's tools put trees of parameters."""

import re
from collections.abc import Iterable
from pathlib import Path

PARAMS_DIRECTORY = "params"
TREE_FILE = "_METADATA"  # of every tree that Orbax wrote
STEP = re.compile(r"(?:\w+[_-])?(\d+)")  # 100, step_100
ITEMS = ("params", "default", "state", "model", "pytree")  # names of trees, that of the parameters first


def find_trees(directory: Path) -> list[Path]:
    """The trees in a directory, the likeliest to be the parameters first: itself, the steps of a
    CheckpointManager from the newest on, and other folders. A step may have several items, of which the same
    is true."""
    if _is_tree(directory):
        return [directory]
    folders = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    steps = {path: int(match[1]) for path in folders if (match := STEP.fullmatch(path.name))}
    newest_first = sorted(steps, key=lambda path: -steps[path])
    of_steps = [
        tree for step in newest_first for tree in ([step] if _is_tree(step) else _items(step.iterdir()))
    ]
    return of_steps + _items(path for path in folders if path not in steps)


def _items(folders: Iterable[Path]) -> list[Path]:
    rank = {name: index for index, name in enumerate(ITEMS)}
    return sorted(filter(_is_tree, folders), key=lambda path: (rank.get(path.name, len(ITEMS)), path.name))


def _is_tree(path: Path) -> bool:
    return (path / TREE_FILE).is_file()
