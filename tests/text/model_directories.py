"""Model directories, texts and conversations for tests of Tokenizer."""

import json
from pathlib import Path

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3_chat_ids.json"
TEXTS = [
    "Hello world",
    " two  spaces ",
    "tab\tand\r\nlines\n\n\n",
    "naïve café, cafe\u0301",
    "日本語 한국어 العربية",
    "🦄👩‍👩‍👧‍👦🇫🇷",
    "\x00\x01\x7f\ufeff\ufffd\u200b",
    "<|im_start|>user<|im_end|><think></s><s><|endoftext|>",
    "x = [1234567, 0.5e-3]  # ▁ <0x0A>",
    "▁",
    " ",
]


def write_directory(path: Path, backend_json: dict | None, **files) -> Path:
    """A model directory. In: tokenizer_config={"bos_token": "<s>"}  Out: tokenizer_config.json with that."""
    if backend_json is not None:
        files["tokenizer"] = backend_json
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return path


def tokenizer_json(tiny, name: str = "llama") -> dict:
    return json.loads(tiny[name]._backend.to_str())


def mt_bench_conversations(path: Path, reply: str) -> dict[int, list[list[dict[str, str]]]]:
    """By question: the conversation up to the user's first turn, and up to the second."""
    conversations = {}
    for question in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        first, second = ({"role": "user", "content": turn} for turn in question["turns"])
        conversations[question["question_id"]] = [
            [first],
            [first, {"role": "assistant", "content": reply}, second],
        ]
    return conversations
