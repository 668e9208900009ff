"""Run checkpoints as their users will: with transformers alone, in a process that never saw an adapter.

    python -E -P reload.py

Each line of its standard input asks for one checkpoint, as JSON: `checkpoint` (a folder), `request` (a JSON file),
`answer` (a file to write) and `device` (the name of one, to load it onto); an empty object asks whether it is ready.
The request holds `sequences` (lists of token ids), `positions` (of how many tokens at the end of each the logits are
asked for), `states` (of how many at the end of the first the hidden states are), `conversations` (`messages` and
`tools`, of which the checkpoint's own chat template is to make tokens), `texts` (to be made tokens with the special
tokens that the tokenizer adds), `prompts` (texts to continue as the checkpoint's generation_config says) and
`max_new_tokens`. The logits, one tensor a sequence, and the states of the first sequence behind each layer go to the
answer; a line of JSON with the new text of each prompt and with what was found in the files, or with the error, comes
back on standard output.

A checkpoint that its config.json calls one `ForSequenceClassification` is read as that: its logits are those of the
classes, one row a sequence, and in place of a new text it gives the name of the likeliest class.
"""

import gc
import inspect
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
                answer = read(asked["checkpoint"], Path(asked["request"]), asked["answer"], asked["device"])
        except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        loaded = {"peft", "workbench"} & set(sys.modules)
        if loaded:
            answer = {"error": f"not a fresh process: {', '.join(sorted(loaded))} is loaded"}
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()  # for the next training
        print(json.dumps(answer), file=answers, flush=True)


def read(checkpoint: str, request_file: Path, answer_file: str, device: str) -> dict[str, Any]:
    """Load a checkpoint, write its logits and states, return its texts and what else was found."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    architectures = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).architectures or []
    classifies = any(name.endswith(CLASSIFIER) for name in architectures)
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    placed = {} if device == "cpu" else {"device_map": {"": device}}
    loaded: Any = kind.from_pretrained(
        checkpoint, dtype="auto", use_safetensors=True, output_loading_info=True, **placed
    )
    model, info = loaded
    model.eval()
    found = {
        "misfits": {name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys")},
        "not_finite": [name for name, value in model.named_parameters() if not torch.isfinite(value).all()],
        "dtype": str(model.dtype).removeprefix("torch."),
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "generation": {} if classifies else json.loads(model.generation_config.to_json_string(use_diff=False)),
        "text_ids": [tokenizer(text)["input_ids"] for text in request["texts"]],
        "vocabulary": len(tokenizer),
    }
    with torch.inference_mode():
        save_file(tensors(model, request, classifies), answer_file)
        if classifies:
            texts = classes(model, tokenizer, request["prompts"])
        else:
            prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in request["prompts"]]
            texts = continued(model, tokenizer, prompts, request["max_new_tokens"])
    try:
        found["prompt_ids"] = [prompt_ids(tokenizer, conversation) for conversation in request["conversations"]]
    except Exception as error:  # noqa: BLE001  a template can raise anything; the rest is told all the same
        found |= {"prompt_ids": [], "template_error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {**found, "texts": texts}


def tensors(model: Any, request: dict[str, Any], classifies: bool) -> dict[str, torch.Tensor]:
    """Logits of the last tokens of each sequence, and of the first the states behind each layer, (layers, tokens)."""
    found = {}
    for number, (ids, count) in enumerate(zip(request["sequences"], request["positions"], strict=True)):
        kept = {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        output = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=number == 0, **kept)
        logits = output.logits if classifies else output.logits[0, -count:]
        found[str(number)] = logits.float().cpu().contiguous()
        if number == 0 and not classifies:
            last = [state[0, -request["states"] :].float().cpu() for state in output.hidden_states or ()]
            if len({state.shape for state in last}) == 1:  # a diagnosis can do without
                found["states"] = torch.stack(last)
    return found


def prompt_ids(tokenizer: Any, conversation: dict[str, Any]) -> list[int]:
    """Tokens of a conversation, up to where the answer begins."""
    inputs = tokenizer.apply_chat_template(
        conversation["messages"], tools=conversation["tools"], add_generation_prompt=True, return_dict=True
    )
    return list(inputs["input_ids"])


def classes(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    """Names of the likeliest classes of rendered texts, in batches that the tokenizer pads."""
    names = []
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        inputs = tokenizer(some, add_special_tokens=False, padding=True, return_tensors="pt").to(model.device)
        names += [model.config.id2label[index] for index in model(**inputs).logits.argmax(dim=-1).tolist()]
    return names


def continued(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """Continuations of token ids as the checkpoint's generation_config says, in batches padded on the left."""
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
            max_new_tokens=max_new_tokens,
        )
        for index, tokens in zip(batch, output[:, longest:].tolist(), strict=True):
            texts[index] = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    return [texts[index] for index in range(len(prompts))]


if __name__ == "__main__":
    main()
