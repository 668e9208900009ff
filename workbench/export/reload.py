"""Run a checkpoint as its users will: with transformers alone, in a process that never saw the adapter.

    python -I reload.py CHECKPOINT REQUEST.json ANSWER.safetensors

REQUEST holds `sequences` (lists of token ids, whose last `positions` logits are asked for), `prompts` (lists of
token ids to continue greedily) and `max_new_tokens`. The logits, one tensor a sequence, go to ANSWER; the new tokens
of each prompt are printed as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOGETHER = 34


def main() -> None:
    """Load, compute, answer."""
    checkpoint, request_file, answer_file = sys.argv[1:]
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto", use_safetensors=True).eval()
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    logits = {}
    new_tokens = []
    with torch.inference_mode():
        for number, ids in enumerate(request["sequences"]):
            found = model(torch.tensor([ids], device=model.device)).logits[0, -request["positions"] :]
            logits[str(number)] = found.float().cpu().contiguous()
        prompts = request["prompts"]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        continued = {}
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
                max_new_tokens=request["max_new_tokens"],
            )
            for index, tokens in zip(batch, output[:, longest:].tolist(), strict=True):
                continued[index] = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        new_tokens = [continued[index] for index in range(len(prompts))]
    loaded = {"peft", "workbench"} & set(sys.modules)
    if loaded:
        raise SystemExit(f"not a fresh process: {', '.join(sorted(loaded))} is loaded")
    save_file(logits, answer_file)
    print(json.dumps(new_tokens))


if __name__ == "__main__":
    main()
