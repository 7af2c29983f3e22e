"""The tokens of one step, as a model sees them."""

from typing import NamedTuple

from jaxtyping import Array, Int32


class TokenBatch(NamedTuple):
    """Flattened tokens of several rows (sequences), and where their keys and values live.

    Each token writes its keys and values to (page_ids, page_offsets) before it attends. `page_table` and
    `lengths` give the rows' positions, the new tokens included: the same page and offset, where a row has one
    token. `query_starts` divides the tokens among the rows, of which the first `num_decode_rows` have one
    each; None means one token per row. `prompt_lengths`, of each token's request, are given where the model's
    rotary embedding depends on them. `logits_indices`, where they are given, are the last token of each row,
    and no other's last hidden state is asked for. Padding tokens write to the null page, and padding rows
    have length 0.
    """

    token_ids: Int32[Array, " tokens"]
    positions: Int32[Array, " tokens"]
    page_ids: Int32[Array, " tokens"]
    page_offsets: Int32[Array, " tokens"]
    page_table: Int32[Array, "rows pages_per_sequence"]
    lengths: Int32[Array, " rows"]
    query_starts: Int32[Array, " rows_plus_1"] | None = None
    num_decode_rows: Int32[Array, ""] | None = None
    prompt_lengths: Int32[Array, " tokens"] | None = None
    logits_indices: Int32[Array, " rows"] | None = None
