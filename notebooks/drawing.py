"""Pictures of the engine's inside for 02_follow_one_request.ipynb. They read private attributes and change nothing."""

from collections import defaultdict

import matplotlib.pyplot as plt
from matplotlib.patches import Patch, Rectangle

COLOURS = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00 #F0E442 #8C6BB1".split()  # told apart without red and green
DARK = {"#0072B2", "#009E73", "#D55E00", "#8C6BB1"}  # under white letters
FREE, CACHED, NULL = "white", "#D0D0D0", "#606060"


def name_of(sequence):
    """A, B, C, ... in order of arrival."""
    return chr(ord("A") + sequence.arrival)


def colour_of(sequence):
    return COLOURS[sequence.arrival % len(COLOURS)]


def box(axes, x, y, width, colour, text="", *, line=0.6, height=0.9, size=8):
    """A rectangle with its text in the middle, in a colour that can be read on it."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=line))
    text_colour = "white" if colour in DARK or colour == NULL else "black"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=text_colour)


def draw_pages(engine):
    """Above: every page, in the colours of those that use it. Below: the page table, a row for each sequence."""
    figure, (pool, table) = plt.subplots(2, figsize=(12, 3.6), height_ratios=(1, 2.4), layout="constrained")
    running = sorted(engine._scheduler._running, key=lambda sequence: sequence.row)
    _draw_pool(pool, engine, running)
    num_rows, num_entries = engine.limits.max_num_seqs, engine.limits.pages_per_sequence
    for sequence in running:
        for entry, page_id in enumerate(sequence.page_ids):
            line = 2.6 if entry < sequence.num_shared_pages else 0.6
            box(table, entry, sequence.row, 0.92, colour_of(sequence), page_id, line=line, height=0.82)
    table.set(xlim=(-0.1, num_entries), ylim=(num_rows, -0.15), xlabel="entry of the page table (8 positions each)")
    table.set_xticks([entry + 0.46 for entry in range(num_entries)], range(num_entries))
    names = {sequence.row: f"{name_of(sequence)}: " for sequence in running}
    table.set_yticks([row + 0.4 for row in range(num_rows)], [names.get(row, "") + f"row {row}" for row in range(num_rows)])
    table.set_title("page table (thick frame: the prefix cache knows the page, and others may use it too)", fontsize=10)


def _draw_pool(axes, engine, running):
    users = defaultdict(list)
    for sequence in running:
        for page_id in sequence.page_ids:
            users[page_id].append(colour_of(sequence))
    pool, num_pages = engine._scheduler.page_pool, engine.limits.num_pages
    for page_id in range(num_pages):
        colours = users[page_id] or [NULL if page_id == 0 else CACHED if page_id in pool._cached else FREE]
        for place, colour in enumerate(colours):
            width = 0.92 / len(colours)
            box(axes, page_id + place * width, 0, width, colour, page_id if len(colours) == 1 else "", line=0.6)
    axes.set(xlim=(-0.1, num_pages), ylim=(-0.05, 1), yticks=[], xticks=[])
    axes.set_title(f"pages: {pool.num_used} used, {pool.num_cached} cached, {pool.num_free} free", fontsize=10)
    kinds = {"null page": NULL, "cached": CACHED, "free": FREE} | {name_of(s): colour_of(s) for s in running}
    handles = [Patch(facecolor=colour, edgecolor="black", label=name) for name, colour in kinds.items()]
    axes.legend(handles=handles, ncols=len(kinds), loc="upper center", bbox_to_anchor=(0.5, -0.05), frameon=False)


def draw_batch(fields, sequences, tokenizer):
    """The flattened tokens of a mixed step in the order of the batch, each in the colour of its row, then padding."""
    token_ids, starts = fields["token_ids"], fields["query_starts"]
    num_decode = int(fields["num_decode_rows"][0])
    figure, axes = plt.subplots(figsize=(12, 2.5), layout="constrained")
    for place, token_id in enumerate(token_ids):
        row = sum(place >= end for end in starts[1:])
        if place >= starts[-1]:
            box(axes, place, 0, 0.92, FREE, "padding", size=7)
            continue
        text = "on the\ndevice" if token_id < 0 else repr(tokenizer.token_text(int(token_id)))[1:-1].strip()
        box(axes, place, 0, 0.92, colour_of(sequences[row]), text, size=7)
        position = fields["starts"][row] + place - starts[row]
        axes.text(place + 0.46, -0.22, position, ha="center", fontsize=8)
    axes.text(-0.1, -0.22, "position ", ha="right", fontsize=8)
    for row, sequence in enumerate(sequences):
        kind = "decode" if row < num_decode else "chunk"
        middle = (starts[row] + starts[row + 1]) / 2
        axes.text(middle, 1.08, f"{name_of(sequence)}\n{kind}", ha="center", fontsize=9)
    axes.set(xlim=(-1.1, len(token_ids)), ylim=(-0.35, 1.75), yticks=[], xlabel="place in the batch")
    axes.set_xticks([place + 0.46 for place in range(len(token_ids))], range(len(token_ids)))
    axes.spines[["top", "left", "right"]].set_visible(False)


def draw_probabilities(logprobs, token_ids, chosen_id, tokenizer):
    """The most likely next tokens as bars; the one that was sampled stands out."""
    import numpy as np

    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
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
    """Who is busy when: `spans` are (lane, number of the step, begin, end) in seconds."""
    lanes = list(dict.fromkeys(lane for lane, *_ in spans))
    origin, first = min(begin for _, _, begin, _ in spans), min(number for _, number, *_ in spans)
    figure, axes = plt.subplots(figsize=(12, 2.6), layout="constrained")
    for lane, number, begin, end in spans:
        x, width, y = 1e3 * (begin - origin), 1e3 * (end - begin), lanes.index(lane)
        axes.barh(y, width, left=x, height=0.7, color=COLOURS[number % 4], edgecolor="black", linewidth=0.5)
        if y and number - first >= 0:
            axes.text(x + width / 2, y, number, ha="center", va="center", fontsize=8)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")


def draw_tree(engine, tokenizer):
    """The radix tree as an indented list: a box for each node, with a line for each of its pages."""
    cache, size = engine._scheduler._pages._cache, engine.limits.page_size
    nodes = list(_below(cache.root, 0))
    num_lines = sum(len(node.page_ids) for node, _ in nodes) + 1
    figure, axes = plt.subplots(figsize=(12, 0.3 * num_lines + 0.3), layout="constrained")
    axes.text(0, 0.5, "root", va="center", fontsize=9)
    eviction = {node: place for place, node in enumerate(cache._unlocked, 1)}
    line, top_of = 1.0, {cache.root: (0, 0.9)}
    for node, depth in nodes:
        x, height = 0.6 * depth, len(node.page_ids)
        parent_x, parent_y = top_of[node.parent]
        axes.plot([parent_x + 0.2, parent_x + 0.2, x], [parent_y, line + 0.45, line + 0.45], color="black", linewidth=0.8)
        colour = COLOURS[4] if node.num_locks else CACHED
        state = f"locked by {node.num_locks}" if node.num_locks else f"cached, {eviction[node]}. to be evicted"
        box(axes, x, line, 9, colour, height=height - 0.15)
        for place, page_id in enumerate(node.page_ids):
            text = tokenizer.decode(node.token_ids[place * size : (place + 1) * size], skip_special_tokens=False)
            y = line + place + 0.45
            axes.text(x + 0.1, y, f"page {page_id:2d}  {text!r}", va="center", fontsize=8, family="monospace")
        axes.text(x + 8.9, line + 0.45, f"{state}; written in step {node.step}", va="center", ha="right", fontsize=8)
        top_of[node], line = (x, line + height - 0.15), line + height
    axes.set(xlim=(-0.1, 9.2 + 0.6 * max(depth for _, depth in nodes)), ylim=(line, 0))
    axes.axis("off")


def _below(node, depth):
    for child in node.children.values():
        yield child, depth + 1
        yield from _below(child, depth + 1)


def draw_run(plans, arrivals, budget):
    """Above: what each sequence does in each step. Below: the tokens of each step, and the most that it may have."""
    figure, (lines, sums) = plt.subplots(
        2, figsize=(12, 6), sharex=True, height_ratios=(2.2, 1), layout="constrained"
    )
    sequences = sorted(arrivals, key=lambda sequence: sequence.arrival)
    place_of = {sequence: place for place, sequence in enumerate(sequences)}
    begun = {}
    for step, plan in enumerate(plans):
        for chunk in plan.chunks:
            begun.setdefault(chunk.sequence, step)
            width = chunk.num_tokens / budget
            y = place_of[chunk.sequence]
            lines.barh(y, width, left=step, height=0.7, align="center", color=COLOURS[0], edgecolor="black", linewidth=0.5)
            lines.text(step + 0.5, y - 0.4, chunk.num_tokens, ha="center", va="bottom", fontsize=7)
        for sequence in plan.decode.sequences:
            lines.plot(step + 0.5, place_of[sequence], "o", color=COLOURS[1], markeredgecolor="black", markersize=6)
        decode, prefill = len(plan.decode), plan.num_tokens - len(plan.decode)
        sums.bar(step + 0.5, decode, 0.9, color=COLOURS[1], edgecolor="black", linewidth=0.5)
        sums.bar(step + 0.5, prefill, 0.9, bottom=decode, color=COLOURS[0], edgecolor="black", linewidth=0.5)
    for sequence, arrival in arrivals.items():
        width, y = begun[sequence] - arrival, place_of[sequence]
        lines.barh(y, width, left=arrival, height=0.7, color="white", edgecolor="black", hatch="...", linewidth=0.5)
    _label_run(lines, sums, sequences, budget)


def _label_run(lines, sums, sequences, budget):
    names = [f"{name_of(s)}: {len(s.request.prompt_token_ids)} + {s.num_output_tokens}" for s in sequences]
    lines.set_yticks(range(len(sequences)), names)
    lines.invert_yaxis()
    lines.set_ylabel("prompt + output tokens")
    waiting = Patch(facecolor="white", edgecolor="black", hatch="...", label="waits")
    chunk = Patch(facecolor=COLOURS[0], edgecolor="black", label="chunk of the prompt (width and number: its tokens)")
    (token,) = lines.plot([], [], "o", color=COLOURS[1], markeredgecolor="black", label="decodes a token")
    lines.legend(handles=[waiting, chunk, token], loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    lines.grid(axis="x", alpha=0.3)
    budget_line = sums.axhline(budget, color="black", linestyle="--", label=f"budget: {budget} tokens")
    sums.legend(handles=[budget_line], loc="upper right", bbox_to_anchor=(1, 0.95))
    sums.set(xlabel="step", ylabel="tokens in the step", ylim=(0, budget * 1.15))
