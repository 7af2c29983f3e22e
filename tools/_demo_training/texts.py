"""Reading, cleaning and splitting the training texts. Plain Python: no jax here."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    file: str
    title: str
    origin: str
    licence: str


STORIES = Source(
    file="tinystories_1000.json",
    title="TinyStories, the first 1,000 stories",
    origin="Ronen Eldan and Yuanzhi Li",
    licence="CDLA-Sharing-1.0",
)
TALES = Source(
    file="GrimmsFairyTales.txt",
    title="Grimms' Fairy Tales, in English translation",
    origin="Project Gutenberg",
    licence="public domain",
)


@dataclass(frozen=True)
class Corpus:
    train_stories: list[str]
    validation_stories: list[str]
    tales: list[str]


# Typography becomes ASCII. Some stories were UTF-8 read as Windows-1252, where one character turned into
# three, the first two always the pair below; the closing quote lost its third, so the bare pair stands for
# it, last.
GARBLED = "\u00e2\u20ac"
ASCII_SPELLINGS = {
    f"{GARBLED}\u0153": '"',
    f"{GARBLED}\u2122": "'",
    f"{GARBLED}\u02dc": "'",
    f"{GARBLED}\u00a6": "...",
    f"{GARBLED}\u201c": " - ",
    f"{GARBLED}\u201d": " - ",
    GARBLED: '"',
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\u2013": " - ",
    "\u2014": " - ",
    "\u2026": "...",
}


def to_ascii(text: str) -> str:
    for found, spelling in ASCII_SPELLINGS.items():
        text = text.replace(found, spelling)
    return text


def clean_story(text: str) -> str:
    paragraphs = [re.sub(r"\s+", " ", to_ascii(line)).strip() for line in text.split("\n")]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def double_quoted(text: str) -> str:
    """The tales' curly single quotes around speech become the stories' double ones; apostrophes stay."""
    return re.sub(r"(?<=[^\w\s])\u2019(?!\w)", '"', text.replace("\u2018", '"'))


def clean_tale_paragraph(text: str) -> str:
    text = re.sub(r"\[\*\]( \w+)?|_", "", double_quoted(text))
    return re.sub(r"\s+", " ", to_ascii(text)).strip()


def split_tales(text: str) -> list[str]:
    """One document per heading; a heading is a paragraph in capitals and is itself left out."""
    tales: list[list[str]] = [[]]
    for block in re.split(r"\n\s*\n", text):
        if block.upper() == block:
            tales.append([])
        else:
            tales[-1].append(clean_tale_paragraph(block))
    return ["\n\n".join(filter(None, paragraphs)) for paragraphs in tales if any(paragraphs)]


def read_corpus(folder: Path, num_validation_stories: int, seed: int) -> Corpus:
    for source in (STORIES, TALES):
        if not (folder / source.file).is_file():
            raise FileNotFoundError(
                f"{folder} has no {source.file}: give the folder that holds it with --data"
            )
    stories = [
        clean_story(story) for story in json.loads((folder / STORIES.file).read_text(encoding="utf-8"))
    ]
    if num_validation_stories >= len(stories):
        raise ValueError(
            f"{num_validation_stories} validation stories of {len(stories)} leave none to train on"
        )
    random.Random(seed).shuffle(stories)
    return Corpus(
        train_stories=stories[num_validation_stories:],
        validation_stories=stories[:num_validation_stories],
        tales=split_tales((folder / TALES.file).read_text(encoding="utf-8")),
    )


# Frequent names of the stories. Left out: those that are also words (Grace, Joy) or mostly animals (Max,
# Spot). fmt: off
GIRLS = [
    "Lily",
    "Anna",
    "Mia",
    "Sara",
    "Lucy",
    "Sarah",
    "Molly",
    "Jane",
    "Lila",
    "Jill",
    "Daisy",
    "Sue",
    "Sally",
    "Amy",
    "Mary",
    "Jenny",
    "Emma",
    "Kate",
    "Ella",
]
BOYS = [
    "Ben",
    "Tom",
    "Timmy",
    "Jack",
    "Tim",
    "Sam",
    "John",
    "Bob",
    "Joe",
    "Jimmy",
    "Tommy",
    "Billy",
    "Andy",
    "Benny",
    "James",
    "Jake",
    "Jim",
    "Peter",
    "Leo",
]
# fmt: on
ANY_NAME = re.compile(rf"\b(?:{'|'.join(GIRLS + BOYS)})\b")


def rename(story: str, rng: random.Random) -> str:
    """The same story about other children: every name becomes another of its group, throughout the story."""
    found = dict.fromkeys(ANY_NAME.findall(story))
    renamed: dict[str, str] = {}
    for names in (GIRLS, BOYS):
        present = [name for name in found if name in names]
        renamed |= zip(present, rng.sample(names, len(present)), strict=True)
    return ANY_NAME.sub(lambda match: renamed[match[0]], story)
