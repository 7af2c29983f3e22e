"""All matches of a pattern in a text that is complete."""

from functools import lru_cache

from jinfer.text.output_parsing.marker_search import MarkerPatterns, MarkerSearch
from jinfer.text.output_parsing.pattern_syntax import parse_pattern


@lru_cache(maxsize=64)
def compiled_pattern(pattern: str) -> MarkerPatterns:
    """The pattern, compiled once. Raises ValueError for one that is refused."""
    return MarkerPatterns([("found", parse_pattern(pattern, ()))])


def find_all(pattern: str, text: str) -> list[dict[str, str]]:
    """The named groups of each match, from left to right, as `re.finditer` finds them; linear in time, but
    for a pattern that often begins and seldom ends."""
    found = []
    start = 0
    while start < len(text):
        search = MarkerSearch(compiled_pattern(pattern))
        match = next(filter(None, map(search.push, text[start:])), None) or search.best
        if match is None:
            break
        found.append({name: text[start + a : start + b] for name, (a, b) in match.spans.items()})
        start += match.end
    return found
