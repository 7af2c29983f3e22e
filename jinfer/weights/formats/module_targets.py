"""Modules by name, pattern or class, as compressed-tensors names them in `targets` and `ignore`."""

import re
from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.weights.formats.entries import compiled

PATTERN = "re:"
LINEAR = "Linear"  # the class of every quantized module of the models that jinfer runs


@dataclass(frozen=True)
class ModuleTargets:
    """A list of names, `re:` patterns that match from the beginning of a name on, and classes."""

    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def read(cls, entries: Entries, name: str) -> "ModuleTargets":
        """A list of strings; an absent one is empty. Raises UnsupportedModelError."""
        given = entries.texts(name) or ()
        patterns = [text.removeprefix(PATTERN) for text in given if text.startswith(PATTERN)]
        names = frozenset(text for text in given if not text.startswith(PATTERN))
        return cls(names, tuple(compiled(entries, pattern) for pattern in patterns))

    def rank(self, module: str) -> int | None:
        """A lower number the more closely the list names a module, 0 by its own name; None where it does
        not."""
        if module in self.names:
            return 0
        if any(pattern.match(module) for pattern in self.patterns):
            return 1
        return 2 if LINEAR in self.names else None
