"""Pictures of the engine's state for 02_follow_one_request.ipynb. Drawing changes nothing in the engine."""

from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle

# The palette of Okabe and Ito, and a purple: colour-blind readers can tell these colours apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8C6BB1"]
FREE, CACHED, NULL = "white", "#D0D0D0", "#606060"
DARK = {"#0072B2", "#009E73", "#D55E00", "#8C6BB1", NULL}  # colours that need white text

DECODE = {"color": COLOURS[1], "marker": "o", "markeredgecolor": "black", "markersize": 6, "linestyle": ""}
WAITING = {"facecolor": "white", "edgecolor": "black", "hatch": "...", "linewidth": 0.5}


def name_of(sequence):
    """A, B, C, ... in order of arrival."""
    return chr(ord("A") + sequence.arrival)


def colour_of(sequence):
    return COLOURS[sequence.arrival % len(COLOURS)]


def box(axes, x, y, width, colour, text="", *, line=0.6, height=0.9, size=8):
    """Draws a rectangle with `text` in its middle, white on dark colours and black on others."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=line))
    text_colour = "white" if colour in DARK else "black"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=text_colour)


def draw_pages(engine):
    """Draws every page in the colours of the sequences that use it, and below them the page table with one
    row per sequence."""
    _, (pool, table) = plt.subplots(2, figsize=(12, 3.6), height_ratios=(1, 2.4), layout="constrained")
    running = sorted(engine.scheduler.running_sequences, key=lambda sequence: sequence.row)
    _draw_pool(pool, engine, running)
    num_rows, num_entries = engine.limits.max_num_seqs, engine.limits.pages_per_sequence
    for sequence in running:
        for entry, page_id in enumerate(sequence.page_ids):
            line = 2.6 if entry < sequence.num_shared_pages else 0.6
            box(table, entry, sequence.row, 0.92, colour_of(sequence), page_id, line=line, height=0.82)
    table.set(
        xlim=(-0.1, num_entries), ylim=(num_rows, -0.15), xlabel="entry of the page table (8 positions each)"
    )
    table.set_xticks([entry + 0.46 for entry in range(num_entries)], range(num_entries))
    names = {sequence.row: f"{name_of(sequence)}: " for sequence in running}
    table.set_yticks(
        [row + 0.4 for row in range(num_rows)], [names.get(row, "") + f"row {row}" for row in range(num_rows)]
    )
    table.set_title(
        "page table (thick frame: the prefix cache knows the page, and others may use it too)", fontsize=10
    )


def _draw_pool(axes, engine, running):
    users = defaultdict(list)
    for sequence in running:
        for page_id in sequence.page_ids:
            users[page_id].append(colour_of(sequence))
    pool, num_pages = engine.scheduler.page_pool, engine.limits.num_pages
    for page_id in range(num_pages):
        colours = users[page_id] or [NULL if page_id == 0 else CACHED if pool.is_cached(page_id) else FREE]
        width = 0.92 / len(colours)
        for i, colour in enumerate(colours):
            box(axes, page_id + i * width, 0, width, colour)
        colour = "white" if DARK.issuperset(colours) else "black"
        weight = "bold" if len(colours) > 1 else "normal"
        axes.text(
            page_id + 0.46, 0.45, page_id, ha="center", va="center", fontsize=8, color=colour, weight=weight
        )
    axes.set(xlim=(-0.1, num_pages), ylim=(-0.05, 1), yticks=[], xticks=[])
    axes.set_title(
        f"pages: {pool.num_used} used, {pool.num_cached} cached, {pool.num_free} free", fontsize=10
    )
    kinds = {"null page": NULL, "cached": CACHED, "free": FREE} | {name_of(s): colour_of(s) for s in running}
    handles = [Patch(facecolor=colour, edgecolor="black", label=name) for name, colour in kinds.items()]
    axes.legend(
        handles=handles, ncols=len(kinds), loc="upper center", bbox_to_anchor=(0.5, -0.05), frameon=False
    )


def draw_batch(fields, sequences, tokenizer):
    """Draws the flattened tokens of a mixed step in the order of the batch, each in the colour of its row,
    then the padding."""
    starts, size = fields["query_starts"], len(fields["token_ids"])
    _, axes = plt.subplots(figsize=(12, 2.3), layout="constrained")
    for row, sequence in enumerate(sequences):
        for token in range(starts[row], starts[row + 1]):
            text = _token_label(fields["token_ids"][token], tokenizer)
            box(axes, token, 0, 0.92, colour_of(sequence), text, size=7)
            position = fields["start_positions"][row] + token - starts[row]
            axes.text(token + 0.46, -0.22, position, ha="center", fontsize=8)
        kind = "decode" if row < fields["num_decode_rows"][0] else "chunk"
        middle = (starts[row] + starts[row + 1]) / 2 - 0.04
        axes.text(middle, 1.0, f"{name_of(sequence)}\n{kind}", ha="center", fontsize=9)
    for token in range(starts[-1], size):
        box(axes, token, 0, 0.92, FREE, "padding", size=7)
    axes.text(-0.1, -0.22, "position ", ha="right", fontsize=8)
    axes.set(xlim=(-1.1, size), ylim=(-0.35, 1.6), yticks=[], xlabel="index in the batch")
    axes.set_xticks([token + 0.46 for token in range(size)], range(size))
    axes.spines[["top", "left", "right"]].set_visible(False)


def _token_label(token_id, tokenizer):
    text = "on the\ndevice" if token_id < 0 else tokenizer.token_text(int(token_id)).strip()
    return text.replace("endoftext", "end\noftext")  # the label is wider than a box


def draw_probabilities(logprobs, token_ids, chosen_id, tokenizer):
    """Draws the probabilities of the most likely next tokens as bars, the sampled token in another colour."""
    _, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    bars = axes.bar(range(len(token_ids)), np.exp(logprobs), color=COLOURS[0])
    for bar, token_id in zip(bars, token_ids, strict=True):
        if token_id == chosen_id:
            bar.set(facecolor=COLOURS[1], hatch="//", edgecolor="black", label="sampled")
    words = [repr(tokenizer.token_text(int(token_id))) for token_id in token_ids]
    axes.set_xticks(range(len(token_ids)), words, rotation=60, ha="right")
    axes.set_ylabel("probability")
    if chosen_id in token_ids:
        axes.legend()


def draw_spans(spans):
    """Draws a timeline with one lane per part of the engine; `spans` are (lane, number of the step, begin,
    end) in seconds."""
    lanes = list(dict.fromkeys(lane for lane, *_ in spans))
    origin, last = min(begin for *_, begin, _ in spans), max(end for *_, end in spans)
    _, axes = plt.subplots(figsize=(12, 2.6), layout="constrained")
    for lane, number, begin, end in spans:
        is_wide = end - begin > 0.012 * (last - origin)
        x, width = 1e3 * (begin - origin), 1e3 * (end - begin)
        box(
            axes,
            x,
            lanes.index(lane) - 0.35,
            width,
            COLOURS[number % 4],
            number if is_wide else "",
            height=0.7,
        )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set(xlim=(0, 1.01e3 * (last - origin)), ylim=(len(lanes) - 0.5, -0.5), xlabel="milliseconds")


def draw_tree(engine, tokenizer):
    """Draws the radix tree as an indented list: a box for each node, with a line for each of its pages."""
    cache = engine.scheduler.radix_cache
    nodes = list(_below(cache.root, 0))
    num_lines = sum(len(node.page_ids) for node, _ in nodes) + 1
    _, axes = plt.subplots(figsize=(12, 0.27 * num_lines + 0.3), layout="constrained")
    axes.text(0, 0.5, "root", va="center", fontsize=9)
    line, bottom_of = 1, {cache.root: (0, 0.9)}
    for node, depth in nodes:
        x, (parent_x, parent_y) = 0.6 * depth, bottom_of[node.parent]
        elbow = [parent_x + 0.2, parent_x + 0.2, x], [parent_y, line + 0.45, line + 0.45]
        axes.plot(*elbow, color="black", linewidth=0.8)
        _draw_node(axes, x, line, node, engine, tokenizer)
        line += len(node.page_ids)
        bottom_of[node] = x, line - 0.15
    axes.set(xlim=(-0.1, 9.2 + 0.6 * max(depth for _, depth in nodes)), ylim=(line, 0))
    axes.axis("off")


def _below(node, depth):
    for child in node.children.values():
        yield child, depth + 1
        yield from _below(child, depth + 1)


def _draw_node(axes, x, line, node, engine, tokenizer):
    box(axes, x, line, 9, COLOURS[4] if node.num_locks else CACHED, height=len(node.page_ids) - 0.15)
    size = engine.limits.page_size
    for i, page_id in enumerate(node.page_ids):
        text = tokenizer.decode(node.token_ids[i * size : (i + 1) * size], skip_special_tokens=False)
        label = f"page {page_id:2d}  {text!r}"
        axes.text(x + 0.1, line + i + 0.45, label, va="center", fontsize=8, family="monospace")
    turn = None if node.num_locks else _ordinal(engine.scheduler.radix_cache.eviction_order.index(node) + 1)
    users = f"locked by {node.num_locks}" if turn is None else f"cached, {turn} to be evicted"
    label = f"{users}; in the tree since step {node.step}"
    axes.text(x + 8.9, line + 0.45, label, va="center", ha="right", fontsize=8)


def _ordinal(number):
    """1st, 2nd, 3rd, 4th, ..., for numbers below 21."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
    return f"{number}{suffix}"


def draw_run(plans, arrivals, budget):
    """Draws the work of each sequence in each step, and below it the number of tokens of each step with its
    bound.

    `arrivals` maps each sequence to the number of steps before its arrival.
    """
    options = {"sharex": True, "height_ratios": (2.2, 1), "layout": "constrained"}
    _, (lines, sums) = plt.subplots(2, figsize=(12, 6), **options)
    line_of = {sequence: line for line, sequence in enumerate(arrivals)}
    begun = {}
    for step, plan in enumerate(plans):
        for chunk in plan.chunks:
            begun.setdefault(chunk.sequence, step)
            y = line_of[chunk.sequence]
            box(lines, step, y - 0.35, chunk.num_tokens / budget, COLOURS[0], height=0.7)
            lines.text(step + 0.03, y - 0.38, chunk.num_tokens, va="bottom", fontsize=7)
        for sequence in plan.decode.sequences:
            lines.plot(step + 0.5, line_of[sequence], **DECODE)
        _draw_sums(sums, step, len(plan.decode), plan.num_tokens)
    for sequence, arrival in arrivals.items():
        lines.barh(line_of[sequence], begun[sequence] - arrival, left=arrival, height=0.7, **WAITING)
    _label_run(lines, sums, list(arrivals), len(plans), budget)


def _draw_sums(axes, step, num_decode, num_tokens):
    box(axes, step + 0.04, 0, 0.92, COLOURS[1], height=num_decode)
    box(axes, step + 0.04, num_decode, 0.92, COLOURS[0], height=num_tokens - num_decode)


def _label_run(lines, sums, sequences, num_steps, budget):
    names = [f"{name_of(s)}: {len(s.request.prompt_token_ids)} + {s.num_output_tokens}" for s in sequences]
    lines.set_yticks(range(len(sequences)), names)
    lines.set(ylabel="prompt + output tokens", ylim=(len(sequences) - 0.5, -0.8))
    chunk = Patch(
        facecolor=COLOURS[0], edgecolor="black", label="chunk of the prompt (width and number: its tokens)"
    )
    (token,) = lines.plot([], [], **DECODE, label="decodes a token")
    handles = [Patch(**WAITING, label="waits"), chunk, token]
    lines.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    lines.grid(axis="x", alpha=0.3)
    sums.axhline(budget, color="black", linestyle="--", label=f"budget of a step: {budget} tokens")
    sums.legend(loc="upper right", frameon=False)
    sums.set(xlabel="step", xlim=(0, num_steps), ylabel="tokens in the step", ylim=(0, budget * 1.4))
