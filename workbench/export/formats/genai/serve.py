"""Run an ONNX model as its users will: with onnxruntime-genai, in a process without this package.

    python -E -P serve.py FOLDER

Each line of its standard input is a request of JSON with one of these: `conversations` (of which the model's chat
template is to make tokens), `texts` (to be made tokens), `prompts` (token ids to continue greedily, with
`max_new_tokens`), `prefixes` (token ids, with `count`: how many of the likeliest next tokens are asked for). Each line
of standard output holds the answers, or an error.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime_genai as genai


class Server:
    """A model with its tokenizer."""

    def __init__(self, folder: str) -> None:
        genai.disable_telemetry_events()
        self.model = genai.Model(folder)
        self.tokenizer = genai.Tokenizer(self.model)

    def answers(self, asked: dict[str, Any]) -> list[Any]:
        """The answers to a request."""
        if "conversations" in asked:
            return [self.ids(self.prompt(one)) for one in asked["conversations"]]
        if "texts" in asked:
            return [self.ids(text) for text in asked["texts"]]
        if "prompts" in asked:
            return [self.continued(ids, asked["max_new_tokens"]) for ids in asked["prompts"]]
        return self.likeliest(asked["prefixes"], asked["count"])

    def prompt(self, conversation: dict[str, Any]) -> str:
        """A conversation as the chat template writes it."""
        tools = conversation.get("tools")
        more = {"tools": json.dumps(tools)} if tools else {}
        messages = json.dumps(conversation["messages"], ensure_ascii=False)
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **more))

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [int(token) for token in self.tokenizer.encode(text)]

    def started(self, longest: int) -> Any:
        """A generator for one text."""
        settings = genai.GeneratorParams(self.model)
        settings.set_search_options(do_sample=False, max_length=longest, batch_size=1)
        return genai.Generator(self.model, settings)

    def continued(self, prompt: list[int], max_new_tokens: int) -> dict[str, Any]:
        """A greedy continuation; the last token of one that has ended is that of the end."""
        generator = self.started(len(prompt) + max_new_tokens)
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        tokens: list[int] = []
        while not generator.is_done() and len(tokens) < max_new_tokens:
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        ended = bool(tokens) and tokens[-1] in set(map(int, self.tokenizer.eos_token_ids))
        tokens = tokens[:-1] if ended else tokens
        text = self.tokenizer.decode(np.array(tokens, dtype=np.int32)) if tokens else ""
        return {"tokens": tokens, "text": text, "stopped": ended}

    def likeliest(self, prefixes: list[list[int]], count: int) -> list[list[tuple[int, float]]]:
        """The likeliest tokens behind token ids; what one shares with the one before it is read once."""
        longest = max(map(len, prefixes), default=0) + 1
        found: list[list[tuple[int, float]]] = []
        generator, read = self.started(longest), list[int]()
        for prefix in prefixes:
            if len(prefix) <= len(read) or prefix[: len(read)] != read:
                generator, read = self.started(longest), []
            # The last by itself: at the end of a text it takes the token of padding, which may be that of the end of a
            # turn, for padding.
            for part in (prefix[len(read) : -1], prefix[-1:]):
                if part:
                    generator.append_tokens(np.array(part, dtype=np.int32))
            read = prefix
            logits = np.asarray(generator.get_logits(), dtype=np.float64).reshape(-1)
            logs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            found.append([(int(token), float(logs[token])) for token in np.argsort(-logs)[:count]])
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
            answer = {"error": f"not onnxruntime-genai alone: {', '.join(sorted(loaded))} is loaded"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
