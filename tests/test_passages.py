"""Passages that a recipe puts into prompts stand there wherever its model answers: scored, proven, in chat, by API."""

import json
from pathlib import Path
from typing import Any

from tiny import recipe_text, write_rows
from workbench.chat.session import ChatSession
from workbench.generation.sampling import Sampling
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned

FEES, CARDS = "A transfer costs 4.", "Freeze it at once."
RECIPE = f"""
from dataclasses import replace

def found(messages):
    return {CARDS!r} if "card" in messages[-1]["content"] else {FEES!r}

def grounded(row):
    return conversation(row, system="Bank", ground=found)

recipe = replace(
    recipe,
    row_to_examples=grounded,
    data={{s: recipe.data[s] for s in ("train", "validation", "test")}},
    inference_examples=lambda row: grounded(row)[-1:],
    metrics=("bleu",),
    max_tokens=160,
)
"""


def rows(split: str, count: int) -> list[dict[str, Any]]:
    asked = ("what does it cost", "my card is gone")
    return [
        {
            "id": f"{split}-{number}",
            "topic": "any",
            "messages": [
                {"role": "user", "content": f"{split}: {asked[number % 2]} {number}?"},
                {"role": "assistant", "content": ("It costs 4.", "Freeze it at once.")[number % 2]},
            ],
        }
        for number in range(count)
    ]


def test_a_run_its_export_and_its_chat_read_the_same_passages(checkpoint: Path, tmp_path: Path) -> None:
    for split, count in (("train", 24), ("validation", 8), ("test", 10)):
        write_rows(tmp_path / f"{split}.jsonl", rows(split, count))
    recipe, out = tmp_path / "reads.py", tmp_path / "out"
    recipe.write_text(recipe_text(checkpoint, tmp_path) + RECIPE)
    # A soft prompt becomes words of the merged checkpoint: its prompts are written anew.
    assert main([str(recipe), "--methods", "untuned,lora,prompt", "--bits", "32", "--out", str(out)]) == 0
    records = {record["method"]: record for record in json.loads((out / "results.json").read_text())["runs"]}
    for name in ("untuned", "lora", "prompt"):
        assert records[name]["status"] == "done", records[name]["error"]
        # The proof is held on the prompts that the model was given, passages and all.
        assert records[name]["export"]["merged"] == (name != "untuned"), records[name]["export"]
        answers = [json.loads(line) for line in (out / name / "predictions.jsonl").open()]
        assert len(answers) == 10
        for number, answer in enumerate(answers):
            here, there = (FEES, CARDS)[:: 1 - 2 * (number % 2)]
            assert here in answer["prompt"]
            assert there not in answer["prompt"]
    tuned = load_tuned(RunFolder.open(out), "lora")
    session = ChatSession(tuned, Sampling(max_new_tokens=4))
    (row,) = rows("test", 1)
    question = row["messages"][0]
    list(session.ask(question["content"]))
    assert session.context() == f"Bank\n{FEES}"
    before = json.loads((out / "lora" / "predictions.jsonl").open().readline())["prediction"]
    asked = tuned.inference_examples({"id": "new", "messages": [question]})
    assert tuned.write(asked) == [before]
    assert tuned.generate(asked[0].prompt) == before
    assert "".join(tuned.stream(asked[0].prompt)) == before
