"""Answers and labels beside transformers' `generate`, on one model in one process, in turns.

    python benchmarks/generation.py                    the untuned SmolLM2, whose answers mostly don't end
    python benchmarks/generation.py --model FOLDER     a merged checkpoint of a run: answers end, and leave the batch

Answers: greedy ones to finserve's test questions, at most 88 new tokens; tokens up to the end of each answer, a second.
Stock is `generate` for one prompt after another, and for all of them in a batch, padded on the left, as they are in the
workbench. In a job the workbench measures the likelihood of the reference answers in the same pass; here it gets none.

Labels: the sentiments of opinion's headlines. Stock generates the label, again one after another and in a batch; the
workbench measures the likelihood of all three.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import draw_bars, machine, median, ratios, spread

from workbench.sources import SMOLLM2

NEW_TOKENS, LABEL_TOKENS = 88, 8  # the recipes' own limits
RECIPES = Path(__file__).parent.parent / "recipes"
FEW = 8  # prompts to warm up with
ONE, BATCH, OURS = "generate, one by one", "generate, batched", "workbench"
Measured = dict[str, float]


def pairs_of(recipe_name: str, renderer: Any, split: str, count: int) -> Any:
    """Examples of a recipe with their tokens."""
    from workbench.data import conversation, load_splits
    from workbench.data.render import render_all
    from workbench.recipe import load_recipe

    recipe = load_recipe(RECIPES / f"{recipe_name}.py")
    examples = load_splits(recipe.data, recipe.row_to_examples or conversation, count).examples[split]
    pairs = render_all(renderer, examples, recipe.max_tokens)[0]
    return [(example, replace(rendered, completion_ids=[renderer.end_of_turn])) for example, rendered in pairs]


def generate(model: Any, config: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """New tokens of each prompt, up to the end of its turn, by `generate` on all of them together."""
    import torch

    longest = max(map(len, prompts))
    padded = [[config.pad_token_id] * (longest - len(p)) + list(p) for p in prompts]
    ids = torch.tensor(padded, device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, longest:]
    ends = set(config.eos_token_id)
    return [
        row[: next((place for place, token in enumerate(row) if token in ends), len(row))] for row in found.tolist()
    ]


def in_turns(sides: dict[str, Callable[[int], int]], prompts: int, rounds: int) -> dict[str, list[Measured]]:
    """How many tokens or labels a second: each side once in every round, after a few prompts to warm up.

    Args:
        sides: name -> what works on the first so many prompts, and returns how much it made.
    """
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for work in sides.values():
        work(FEW)
    for _ in range(rounds):
        for name, work in sides.items():
            began = time.perf_counter()
            done = work(prompts)
            found[name].append({"speed": done / (time.perf_counter() - began)})
    return found


def tell(what: str, found: dict[str, list[Measured]], unit: str) -> None:
    """Print medians and ratios, and draw them."""
    for name, measured in found.items():
        print(f"{what}, {name}: {median(measured, 'speed'):.1f} {unit}")
    for name in (ONE, BATCH):
        print(f"{what}, workbench to {name}: {spread(ratios(found[OURS], found[name], 'speed'))}")
    draw_bars(what, f"{what.capitalize()}, greedy", unit, {n: [m["speed"] for m in found[n]] for n in found})


def main() -> None:
    """Measure both."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=SMOLLM2, metavar="NAME", help="checkpoint (default: SmolLM2-135M-Instruct)")
    p.add_argument("--prompts", type=int, default=128, metavar="N", help="in a batch (default: 128)")
    p.add_argument("--alone", type=int, default=4, metavar="N", help="prompts that go one by one (default: 4)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="turns that count (default: 3)")
    options = p.parse_args()

    from transformers import AutoModelForCausalLM

    from workbench.data.render import make_renderer
    from workbench.generation.engine import LocalModel, generation_config
    from workbench.generation.sampling import Sampling
    from workbench.models import fast_evaluation, load_model, load_tokenizer
    from workbench.sources import fetch_checkpoint

    print(f"# Generation with {options.model}, in float32\n{machine()}")
    path = fetch_checkpoint(options.model).path
    renderer, model = make_renderer(load_tokenizer(path)), load_model(path, 32)
    local = LocalModel(model, renderer)
    its_own = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()  # with transformers' attention

    asked = pairs_of("finserve", renderer, "test", options.prompts)
    config = generation_config(renderer, model.generation_config)
    config.max_new_tokens = NEW_TOKENS
    prompts = [rendered.prompt_ids for _, rendered in asked]
    texts: dict[str, list[str]] = {}

    def tokens_in(written: Sequence[str]) -> int:
        return sum(map(len, renderer.tokenizer(list(written), add_special_tokens=False)["input_ids"]))

    def stock(name: str, groups: Sequence[Sequence[list[int]]]) -> int:
        found = [tokens for group in groups for tokens in generate(its_own, config, group)]
        texts[name] = [text.strip() for text in renderer.tokenizer.batch_decode(found, skip_special_tokens=True)]
        return tokens_in(texts[name])

    def ours(count: int) -> int:
        with fast_evaluation(model):
            some = asked[:count]
            answers = local.generate([example.prompt for example, _ in some], Sampling(max_new_tokens=NEW_TOKENS))
        texts[OURS] = [answer.text for answer in answers]
        return tokens_in(texts[OURS])

    # One by one takes an even choice of the prompts, whose answers are as long as all of them.
    some = prompts[:: max(1, len(prompts) // options.alone)][: options.alone]
    sides: dict[str, Callable[[int], int]] = {
        ONE: lambda count: stock(ONE, [[prompt] for prompt in some[: -(-count // FEW)]]),
        BATCH: lambda count: stock(BATCH, [prompts[:count]]),
        OURS: ours,
    }
    tell("answers", in_turns(sides, len(asked), options.rounds), "tokens a second")
    same = sum(a == b for a, b in zip(texts[BATCH], texts[OURS], strict=True))
    print(f"answers, the same text in the batch and in the workbench: {same} of {len(asked)}")

    labelled = pairs_of("opinion", renderer, "test", options.prompts)
    choices = [example.choices for example, _ in labelled]
    questions = [example.prompt for example, _ in labelled]
    config = generation_config(renderer, model.generation_config)
    config.max_new_tokens = LABEL_TOKENS
    asked_labels = [rendered.prompt_ids for _, rendered in labelled]

    def labels(count: int) -> int:
        with fast_evaluation(model):
            return len(local.loglikelihood(questions[:count], choices[:count]))

    sides = {
        ONE: lambda count: len([generate(its_own, config, [p]) for p in asked_labels[: -(-count // FEW)]]),
        BATCH: lambda count: len(generate(its_own, config, asked_labels[:count])),
        OURS: labels,
    }
    tell("labels", in_turns(sides, len(labelled), options.rounds), "labels a second")


if __name__ == "__main__":
    main()
