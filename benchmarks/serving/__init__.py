"""What a server costs beside the engine alone, and what its features cost.

    python -m benchmarks.serving [CASE ...] (--model DIR | --config DIR) [--results FILE]

    serve-vs-offline   1,000 requests of 1,024 in and 128 out, all at once: output tokens/s in percent of the
                       engine's alone
    serve-ttft-added   median TTFT at 1 request/s at random, less the engine's alone at the same times, ms
    serve-itl-p99      64 streams that begin together, 128 in and 512 out: p99 ITL over its median
    serve-structured   200 requests whose answers fit a JSON schema: output tokens/s in percent of as many
                       free ones
    serve-penalties    256 rows with three penalties and a bias, the engine alone: time of a decode step over
                       that without them

Each case is a line of JSON in results/<device>/serving.jsonl; the newest of an id counts. Server and engine
alone get the same random tokens as prompts. The engine alone runs first, in a process of its own. What takes
turns is repeated, and medians count. `limit` is a server that costs nothing: 100 percent, a ratio of 1, 0 ms
(of which `percent_of_limit` is the engine's TTFT over the server's). A result above its limit is at
100 percent of it where up to 5% of noise can explain that, and is not recorded otherwise.

cases      what is asked, and figures -> a line        plain Python
offline    the engine alone, a process of its own      jax
served     loads on a server                           aiohttp
"""
