"""Writes tests/fixtures/qwen3_chat_ids.json: transformers' ids for the MT-bench prompts under Qwen3's chat
template.

    python -m tools.goldens.qwen3_chat

Needs the data folder beside the checkout and the extra `oracle`. The prompts are not copied: the fixture
holds, for each prompt and turn, the number of token ids and their SHA-256, taken over the decimal ids joined
by commas.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
FIXTURE = ROOT / "tests" / "fixtures" / "qwen3_chat_ids.json"
ASSISTANT_REPLY = "Answer."


def write(path: Path = FIXTURE) -> None:
    """Write the fixture to a path."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(SHARED_DATA / "tokenizers" / "qwen3")
    lines = (SHARED_DATA / "prompts" / "mt_bench_question.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [_prompt(tokenizer, json.loads(line)) for line in lines]
    fixture = {
        "oracle": f"transformers {transformers.__version__}",
        "assistant_reply": ASSISTANT_REPLY,
        "sha256_of": "decimal ids joined by commas",
        "prompts": prompts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fixture, indent=1) + "\n", encoding="utf-8")


def _prompt(tokenizer: Any, question: dict[str, Any]) -> dict[str, Any]:
    first, second = question["turns"]
    one_turn = [{"role": "user", "content": first}]
    two_turns = [
        *one_turn,
        {"role": "assistant", "content": ASSISTANT_REPLY},
        {"role": "user", "content": second},
    ]
    return {
        "question_id": question["question_id"],
        "turns": [_digest(tokenizer, one_turn), _digest(tokenizer, two_turns)],
    }


def _digest(tokenizer: Any, messages: list[dict[str, str]]) -> dict[str, Any]:
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return {"num_ids": len(ids), "sha256": hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()}


if __name__ == "__main__":
    write()
