"""A soak: mixed traffic on a server for minutes, and what must be true during it and after it.

    python -m benchmarks.soak --minutes 10 [--model DIR | --config DIR] [--clients N] >> serving.jsonl

Progress goes to stderr, a line each 10 s. The line of JSON on stdout, with the id `serve-soak`, has what was
measured; the status is 1 where a check failed, and stderr has the reasons.

traffic     requests at random, of all kinds                       plain Python
answers     an answer and its request -> what is wrong             plain Python
clients     requests over HTTP, each when one before has ended     aiohttp
watch       memory of the server's processes, its own figures      aiohttp
checks      all of it -> the reasons why a soak failed             plain Python
"""
