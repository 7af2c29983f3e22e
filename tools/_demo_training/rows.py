"""From documents to fixed rows of tokens: the tokenizer, the packing, and the endless stream of batches."""

import itertools
import queue
import random
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from _demo_training.settings import Settings
from _demo_training.texts import Corpus, rename

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
PADDING_SEGMENT = 0
# Rows that wait for a document that still fits; more would pack tighter but order documents by length.
NUM_OPEN_ROWS = 16
NUM_WAITING_BATCHES = 64


class Rows(NamedTuple):
    """Each array is int32 [rows, max_positions]. `segments` numbers a row's documents from 1; 0 is
    padding."""

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    segments: np.ndarray


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the text gives only {tokenizer.get_vocab_size()} of vocab_size {vocab_size} entries"
        )
    # A prompt begins as a document does, so generation from the empty prompt starts a story.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, END_OF_TEXT_ID)],
    )
    return tokenizer


def with_dropout(tokenizer: Tokenizer, rate: float) -> Tokenizer:
    """A copy that skips each merge with probability `rate`, so a word is spelled differently every time."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.model.dropout = rate or None
    return copy


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """BOS, text, EOS for each; BOS comes from the tokenizer's own template."""
    return [[*encoding.ids, END_OF_TEXT_ID] for encoding in tokenizer.encode_batch(texts)]


def cut(document: list[int], length: int, first_length: int) -> list[list[int]]:
    """Pieces of `length` inputs and their targets, so neighbours share one token: [0..8] -> [0..4],
    [4..8]."""
    starts = [0, *range(first_length, len(document) - 1, length)]
    ends = [*starts[1:], len(document) - 1]
    return [document[start : end + 1] for start, end in zip(starts, ends, strict=True)]


def assign_rows(lengths: list[int], capacity: int) -> list[list[int]]:
    """First fit over the open rows; the fullest one closes when there are too many."""
    closed: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []
    for index, length in enumerate(lengths):
        slot = next((i for i, (used, _) in enumerate(open_rows) if used + length <= capacity), None)
        used, members = open_rows.pop(slot) if slot is not None else (0, [])
        open_rows.append((used + length, [*members, index]))
        if len(open_rows) > NUM_OPEN_ROWS:
            open_rows.sort(key=lambda row: row[0])
            closed.append(open_rows.pop()[1])
    return closed + [members for _, members in open_rows]


def pack(pieces: list[list[int]], row_length: int) -> Rows:
    """Whole pieces side by side; positions restart and attention stops at each piece's border."""
    assigned = assign_rows([len(piece) - 1 for piece in pieces], row_length)
    rows = Rows(*(np.zeros((len(assigned), row_length), np.int32) for _ in Rows._fields))
    for row, members in enumerate(assigned):
        start = 0
        for segment, piece in enumerate((pieces[i] for i in members), start=PADDING_SEGMENT + 1):
            end = start + len(piece) - 1
            rows.inputs[row, start:end] = piece[:-1]
            rows.targets[row, start:end] = piece[1:]
            rows.positions[row, start:end] = np.arange(end - start)
            rows.segments[row, start:end] = segment
            start = end
    return rows


def validation_rows(tokenizer: Tokenizer, stories: list[str], row_length: int) -> Rows:
    documents = encode_documents(tokenizer, stories)
    return pack([piece for d in documents for piece in cut(d, row_length, row_length)], row_length)


def take(rows: Rows, indices: np.ndarray) -> Rows:
    return Rows(*(array[indices] for array in rows))


def padded_batches(rows: Rows, batch_rows: int) -> Iterator[Rows]:
    """All rows in order, the last batch filled up with padding: every batch has one shape."""
    num_missing = -len(rows.inputs) % batch_rows
    padded = Rows(*(np.pad(array, ((0, num_missing), (0, 0))) for array in rows))
    for start in range(0, len(padded.inputs), batch_rows):
        yield take(padded, np.arange(start, start + batch_rows))


def shuffled_batches(rows: Rows, batch_rows: int, rng: random.Random) -> Iterator[Rows]:
    """Batches of one shape; the few rows left over are skipped, as the next pass packs others."""
    order = np.array(rng.sample(range(len(rows.inputs)), len(rows.inputs)))
    if len(order) < batch_rows:
        raise ValueError(f"the text fills {len(order)} rows: batch_rows {batch_rows} is too many")
    for start in range(0, len(order) - batch_rows + 1, batch_rows):
        yield take(rows, order[start : start + batch_rows])


def epoch_pieces(
    texts: list[str], plain: Tokenizer, noisy: Tokenizer | None, settings: Settings, rng: random.Random
) -> list[list[int]]:
    """One augmented pass over the texts: names swapped in some, merges dropped in some, cut points moved."""
    texts = [rename(text, rng) if rng.random() < settings.rename_share else text for text in texts]
    rng.shuffle(texts)
    num_noisy = 0 if noisy is None else round(settings.bpe_dropout_share * len(texts))
    documents = encode_documents(plain, texts[num_noisy:])
    if noisy is not None:
        documents += encode_documents(noisy, texts[:num_noisy])
    rng.shuffle(documents)
    length = settings.max_positions
    return [piece for d in documents for piece in cut(d, length, cut_point(len(d) - 1, length, rng))]


def cut_point(num_inputs: int, length: int, rng: random.Random) -> int:
    """A document that fits is kept whole; a longer one is cut at another place each time."""
    return length if num_inputs <= length else rng.randint(length // 2, length)


def training_batches(corpus: Corpus, tokenizer: Tokenizer, settings: Settings) -> Iterator[Rows]:
    """`num_steps` batches: first stories and tales mixed, then stories alone, at the end in plain tokens."""
    noisy = with_dropout(tokenizer, settings.bpe_dropout)
    rng = random.Random(settings.seed)
    num_done = 0
    while num_done < settings.num_steps:
        done_share = num_done / settings.num_steps
        texts = corpus.train_stories + (corpus.tales if done_share < settings.tale_steps_share else [])
        dropping = noisy if done_share < settings.bpe_dropout_steps_share else None
        rows = pack(epoch_pieces(texts, tokenizer, dropping, settings, rng), settings.max_positions)
        for batch in itertools.islice(
            shuffled_batches(rows, settings.batch_rows, rng), settings.num_steps - num_done
        ):
            yield batch
            num_done += 1


def in_background(batches: Iterator[Rows]) -> Iterator[Rows]:
    """The same batches, made ahead by a thread: the tokenizer runs outside the interpreter lock."""
    waiting: queue.Queue[Rows | BaseException | None] = queue.Queue(NUM_WAITING_BATCHES)

    def produce() -> None:
        try:
            for batch in batches:
                waiting.put(batch)
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=produce, daemon=True).start()
    while (item := waiting.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
