"""Run checkpoints as their users will: with transformers alone, in a process that never saw an adapter.

    python -E -P reload.py

Each line of its standard input asks for one checkpoint, as JSON: `checkpoint` (a folder), `request` (a JSON file) and
`answer` (a file to write); an empty object asks whether it is ready. The request holds `sequences` (lists of token
ids), `positions` (of how many tokens at the end of each the logits are asked for), `prompts` (texts to continue
greedily) and `max_new_tokens`. The logits, one tensor a sequence, go to the answer; a line of JSON with the new text
of each prompt, or with the error, comes back on standard output.

A checkpoint that its config.json calls one `ForSequenceClassification` is read as that: its logits are those of the
classes, one row a sequence, and in place of a new text it gives the name of the likeliest class.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

TOGETHER = 34
CLASSIFIER = "ForSequenceClassification"


def main() -> None:
    """Answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"ready": True}
            if asked:
                answer = {"texts": read(asked["checkpoint"], Path(asked["request"]), asked["answer"])}
        except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        loaded = {"peft", "workbench"} & set(sys.modules)
        if loaded:
            answer = {"error": f"not a fresh process: {', '.join(sorted(loaded))} is loaded"}
        print(json.dumps(answer), file=answers, flush=True)


def read(checkpoint: str, request_file: Path, answer_file: str) -> list[str]:
    """Load a checkpoint, write its logits, return its texts."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    architectures = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).architectures or []
    classifies = any(name.endswith(CLASSIFIER) for name in architectures)
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model = kind.from_pretrained(checkpoint, dtype="auto", use_safetensors=True).eval()
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    with torch.inference_mode():
        logits = {}
        for number, (ids, count) in enumerate(zip(request["sequences"], request["positions"], strict=True)):
            whole = model(input_ids=torch.tensor([ids], device=model.device)).logits
            found = whole if classifies else whole[0, -count:]
            logits[str(number)] = found.float().cpu().contiguous()
        save_file(logits, answer_file)
        if classifies:
            return classes(model, tokenizer, request["prompts"])
        prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in request["prompts"]]
        return continued(model, tokenizer, prompts, request["max_new_tokens"])


def classes(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    """Names of the likeliest classes of rendered texts, in batches that the tokenizer pads."""
    names = []
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        inputs = tokenizer(some, add_special_tokens=False, padding=True, return_tensors="pt").to(model.device)
        names += [model.config.id2label[index] for index in model(**inputs).logits.argmax(dim=-1).tolist()]
    return names


def continued(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """Greedy continuations of token ids, in batches of like length, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = {}
    for start in range(0, len(order), TOGETHER):
        batch = order[start : start + TOGETHER]
        longest = max(len(prompts[index]) for index in batch)
        pad = model.generation_config.pad_token_id or 0
        ids = [[pad] * (longest - len(prompts[index])) + prompts[index] for index in batch]
        mask = [[0] * (longest - len(prompts[index])) + [1] * len(prompts[index]) for index in batch]
        output = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        for index, tokens in zip(batch, output[:, longest:].tolist(), strict=True):
            texts[index] = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    return [texts[index] for index in range(len(prompts))]


if __name__ == "__main__":
    main()
