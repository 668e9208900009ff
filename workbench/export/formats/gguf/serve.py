"""Run a GGUF file as its users will: in llama.cpp's server, in a process without this package.

    python -E -P serve.py FILE CONTEXT [ADAPTER]

Each line of its standard input is a request of JSON: a path of the server and what it is sent, `{"path": "/tokenize",
"bodies": [...]}`, many of one kind together. Each line of standard output holds the answers, or an error. The server
listens on the loopback interface, at a port of its own.
"""

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import xllamacpp

# The server is on this machine: no proxy that the environment names may see what is asked.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Prompts that are read side by side.
SLOTS = 4


def main() -> None:
    """Load the file, and answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the library prints is no answer
    server: Any = None
    with ThreadPoolExecutor(SLOTS) as pool:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                server = server or start(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
                address = server.listening_address + asked["path"]
                answer: dict[str, Any] = {"answers": list(pool.map(partial(post, address), asked["bodies"]))}
            except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
                answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            loaded = {"torch", "transformers", "workbench"} & set(sys.modules)
            if loaded:
                answer = {"error": f"not llama.cpp alone: {', '.join(sorted(loaded))} is loaded"}
            print(json.dumps(answer), file=answers, flush=True)


def start(file: str, context: int, adapters: list[str]) -> Any:
    """llama.cpp's server with a model, and adapters that are added to it."""
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = context * SLOTS
    settings.n_parallel = SLOTS
    settings.warmup = False
    settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
    settings.verbosity = 0
    return xllamacpp.Server(settings)


def post(address: str, body: Any) -> Any:
    """What the server answers.

    Raises:
        RuntimeError: it refuses, with its own words.
    """
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with DIRECT.open(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode(errors="replace")[:300]) from error


if __name__ == "__main__":
    main()
