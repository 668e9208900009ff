"""Run a checkpoint, or an adapter on its base, as users will: with transformers and PEFT as they are.

    python -E -P serve.py SETTINGS

SETTINGS is JSON: `folder` (a checkpoint or an adapter), `device` (the name of one, to load it onto), and of an adapter
`base` (the folder of its base), `arguments` (of the base's `from_pretrained`: `dtype`, and `bits` where it is to be
quantized by bitsandbytes) and `import` (a module that makes PEFT know the method, or none). Answers are written as the
folder's `generation_config.json` says.

Each line of its standard input is a request of JSON with one of these: `conversations` (of which the chat template is
to make tokens), `texts` (to be made tokens), `prompts` (token ids to continue greedily, with `max_new_tokens`),
`prefixes` (token ids, with `count`: how many of the likeliest next tokens are asked for). Each line of standard output
holds the answers, or an error.
"""

import importlib
import inspect
import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


class Server:
    """A model with its tokenizer."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(asked["folder"])
        self.settings = GenerationConfig.from_pretrained(asked["folder"])
        base = asked.get("base")
        more = dict(asked.get("arguments") or {"dtype": "auto"})
        if bits := more.pop("bits", None):
            held = {"load_in_8bit": True} if bits == 8 else NF4 | {"bnb_4bit_compute_dtype": more["dtype"]}
            more["quantization_config"] = BitsAndBytesConfig(**held)
        if bits or asked["device"] != "cpu":
            more["device_map"] = {"": asked["device"]}
        self.model: Any = AutoModelForCausalLM.from_pretrained(base or asked["folder"], use_safetensors=True, **more)
        if base:
            if asked.get("import"):
                importlib.import_module(asked["import"])
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, asked["folder"])
        self.model.eval()
        plain = self.model.get_base_model() if base else self.model
        self.keeps = "logits_to_keep" in inspect.signature(plain.forward).parameters

    @torch.inference_mode()
    def answers(self, asked: dict[str, Any]) -> list[Any]:
        """The answers to a request."""
        if "conversations" in asked:
            return [self.prompt_ids(one) for one in asked["conversations"]]
        if "texts" in asked:
            return [self.tokenizer(text)["input_ids"] for text in asked["texts"]]
        if "prompts" in asked:
            return self.continued(asked["prompts"], asked["max_new_tokens"])
        return self.likeliest(asked["prefixes"], asked["count"])

    def prompt_ids(self, conversation: dict[str, Any]) -> list[int]:
        """Tokens of a conversation, up to where the answer begins."""
        inputs = self.tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation["tools"], add_generation_prompt=True, return_dict=True
        )
        return list(inputs["input_ids"])

    def tensor(self, rows: list[list[int]]) -> torch.Tensor:
        """Token ids where the model is."""
        return torch.tensor(rows, device=self.model.device)

    def continued(self, prompts: list[list[int]], max_new_tokens: int) -> list[dict[str, Any]]:
        """Greedy continuations in one batch, padded on the left."""
        longest = max(map(len, prompts))
        pad, ends = self.settings.pad_token_id or 0, self.settings.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        output = self.model.generate(
            input_ids=self.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts]),
            attention_mask=self.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
            max_new_tokens=max_new_tokens,
            generation_config=self.settings,
        )
        found = []
        for tokens in output[:, longest:].tolist():
            stop = next((place for place, token in enumerate(tokens) if token in ends), None)
            kept = tokens if stop is None else tokens[:stop]
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            found.append({"tokens": kept, "text": text, "stopped": stop is not None})
        return found

    def likeliest(self, prefixes: list[list[int]], count: int) -> list[list[tuple[int, float]]]:
        """The likeliest tokens behind token ids; those that go on from one another are read at once."""
        chains: list[list[list[int]]] = []
        for prefix in prefixes:
            if chains and prefix[: len(chains[-1][-1])] == chains[-1][-1]:
                chains[-1].append(prefix)
            else:
                chains.append([prefix])
        found: list[list[tuple[int, float]]] = []
        for chain in chains:
            last, read = chain[-1], len(chain[-1]) - len(chain[0]) + 1
            kept = {"logits_to_keep": read} if self.keeps else {}
            logs = self.model(input_ids=self.tensor([last]), **kept).logits[0, -read:].float().log_softmax(dim=-1)
            for prefix in chain:
                best = logs[len(prefix) - len(last) - 1].topk(min(count, logs.shape[-1]))
                found.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        return found


def main() -> None:
    """Load the model, and answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    asked = json.loads(sys.argv[1])
    server = None
    for line in sys.stdin:
        try:
            server = server or Server(asked)
            answer: dict[str, Any] = {"answers": server.answers(json.loads(line))}
        except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        if not asked.get("import") and "workbench" in sys.modules:
            answer = {"error": "not transformers and PEFT alone: workbench is loaded"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
