"""Run an OpenVINO model as its users will: with OpenVINO GenAI, in a process without this package.

    python -E -P serve.py FOLDER

The requests and answers are those of `../stock/serve.py`. Answers come from GenAI's pipeline; next tokens, which
it does not tell, from the same model in the same runtime.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

# Without it, sums are rounded to bfloat16 where the processor can.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class Server:
    """A model with its tokenizer."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pipeline = openvino_genai.LLMPipeline(folder, "CPU", **EXACT)
        self.tokenizer = self.pipeline.get_tokenizer()
        self.reader: Any = None

    def answers(self, asked: dict[str, Any]) -> list[Any]:
        """The answers to a request."""
        if "conversations" in asked:
            return [self.ids(self.prompt(one), special=False) for one in asked["conversations"]]
        if "texts" in asked:
            return [self.ids(text, special=True) for text in asked["texts"]]
        if "prompts" in asked:
            return self.continued(asked["prompts"], asked["max_new_tokens"])
        return self.likeliest(asked["prefixes"], asked["count"])

    def prompt(self, conversation: dict[str, Any]) -> str:
        """A conversation as the chat template writes it."""
        more = {"tools": conversation["tools"]} if conversation.get("tools") else {}
        return str(self.tokenizer.apply_chat_template(conversation["messages"], add_generation_prompt=True, **more))

    def ids(self, text: str, special: bool) -> list[int]:
        """Tokens of a text."""
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=special).input_ids.data[0]]

    def continued(self, prompts: list[list[int]], max_new_tokens: int) -> list[dict[str, Any]]:
        """Greedy continuations in one batch, padded on the left."""
        longest = max(map(len, prompts))
        rows = np.array([[0] * (longest - len(ids)) + ids for ids in prompts], dtype=np.int64)
        mask = np.array([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], dtype=np.int64)
        settings = self.pipeline.get_generation_config()
        settings.max_new_tokens, settings.do_sample, settings.apply_chat_template = max_new_tokens, False, False
        given = openvino_genai.TokenizedInputs(openvino.Tensor(rows), openvino.Tensor(mask))
        ends = {settings.eos_token_id, *settings.stop_token_ids}
        found = []
        for tokens in self.pipeline.generate(given, settings).tokens:
            kept = [int(token) for token in tokens]
            stopped = bool(kept) and kept[-1] in ends
            kept = kept[:-1] if stopped else kept
            found.append({"tokens": kept, "text": self.tokenizer.decode(kept) if kept else "", "stopped": stopped})
        return found

    def likeliest(self, prefixes: list[list[int]], count: int) -> list[list[tuple[int, float]]]:
        """The likeliest tokens behind token ids; what one shares with the one before it is read once."""
        if self.reader is None:
            model = Path(self.folder) / "openvino_model.xml"
            self.reader = openvino.Core().compile_model(model, "CPU", EXACT).create_infer_request()
        found: list[list[tuple[int, float]]] = []
        self.reader.reset_state()  # of an earlier request
        read: list[int] = []
        for prefix in prefixes:
            if len(prefix) <= len(read) or prefix[: len(read)] != read:
                self.reader.reset_state()
                read = []
            ids = np.array([prefix[len(read) :]], dtype=np.int64)
            places = np.arange(len(read), len(prefix), dtype=np.int64)[None]
            output = self.reader.infer({
                "input_ids": ids, "attention_mask": np.ones((1, len(prefix)), dtype=np.int64), "position_ids": places,
                "beam_idx": np.zeros(1, dtype=np.int32),
            })  # fmt: skip
            logits = np.array(output["logits"][0, -1], dtype=np.float64)
            logs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            found.append([(int(token), float(logs[token])) for token in np.argsort(-logs)[:count]])
            read = prefix
        return found


def main() -> None:
    """Load the model, and answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the library prints is no answer
    server = None
    for line in sys.stdin:
        try:
            server = server or Server(sys.argv[1])
            answer: dict[str, Any] = {"answers": server.answers(json.loads(line))}
        except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        loaded = {"torch", "transformers", "workbench"} & set(sys.modules)
        if loaded:
            answer = {"error": f"not OpenVINO alone: {', '.join(sorted(loaded))} is loaded"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
