"""Rows as people have them become examples: conversations of every shape, texts with labels; nothing goes silently."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny import CHATML, make_tokenizer, rows, write_rows
from workbench import DataFile, Recipe
from workbench.data import choice, conversation, load_splits
from workbench.data.columns import looked_at
from workbench.data.prepared import PreparedData, prepare_data
from workbench.data.render import Renderer, make_renderer, render_all
from workbench.errors import UserError
from workbench.run.defaults import completed

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Bonn"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALLED = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    {"role": "assistant", "content": "No, sunny."},
]
# Writes tools, calls and thoughts, as Qwen's and others do.
WITH_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def renderer(template: str = CHATML) -> Renderer:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return make_renderer(tokenizer)


def said(**row: Any) -> list[tuple[str, str]]:
    (example,) = conversation({"id": "1", **row})
    return [*((m["role"], m["content"]) for m in example.prompt), ("answer", example.completion)]


HI = [("user", "Hi"), ("answer", "Hello")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [U, A]}, HI),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, A]}, HI),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, HI),
        ({"conversations": [U, A]}, HI),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
                "system": "Be kind.",
            },
            [("system", "Be kind."), *HI],
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello", "text": "x"}, HI),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, [("user", "Add\n\n1 2"), ("answer", "3")]),
        ({"instruction": "Add", "context": "1 2", "response": 3}, [("user", "Add\n\n1 2"), ("answer", "3")]),
        ({"prompt": "Hi", "completion": "Hello"}, HI),
        ({"prompt": [U], "completion": [A]}, HI),
        ({"prompt": [U, A, U], "completion": [A]}, [("user", "Hi"), ("assistant", "Hello"), *HI]),
        ({"Question": "Hi", "Answer ": "Hello"}, HI),
    ],
)
def test_every_shape_is_read(row: dict, expected: list) -> None:
    assert said(**row) == expected


def test_a_history_is_learnt_like_other_turns() -> None:
    row = {"id": "1", "instruction": "And?", "output": "No.", "history": [["Hi", "Hello"]]}
    assert [(e.id, len(e.prompt), e.completion) for e in conversation(row)] == [("1", 1, "Hello"), ("1#2", 3, "No.")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A]}, "'image_url'"),
        ({"messages": [U, {**A, "weight": 0.5}]}, "message 2 has weight 0.5"),
        ({"messages": [U, {**A, "function_call": {"name": "x"}}]}, "message 2 has 'function_call'"),
        ({"messages": [U, {**A, "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]}, "no JSON object"),
        ({"messages": [U, A, {"role": "tool", "content": "x"}]}, "wrong role order"),
        ({"messages": [U, A], "tools": [1]}, "tools must be a list of objects"),
        ({"messages": [U, A], "functions": [TOOL]}, "'functions' is the former form"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "turn 1 is from 'narrator'"),
        ({"instruction": "x", "output": None}, "no 'output'"),
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "no messages, and no other shape.*chosen, rejected"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name(row: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        conversation({"id": "1", **row})


def test_weight_0_is_obeyed() -> None:
    messages = [U, {"role": "assistant", "content": "WRONG", "weight": 0}, U, {**A, "weight": 1}]
    (example,) = conversation({"id": "1", "messages": messages})
    assert (example.id, example.completion, example.prompt[1]["content"]) == ("1#2", "Hello", "WRONG")


def test_calls_of_tools_are_rendered_by_the_template_and_learnt() -> None:
    row = {"id": "1", "messages": CALLED, "tools": json.dumps([TOOL])}
    pairs, _ = render_all(renderer(WITH_TOOLS), conversation(row), 400)
    (_, call), (second, answer) = pairs
    assert call.text.startswith('<|im_start|>system\n{"type": "function", "function": {"name": "weather"')
    assert call.answer == '<call>{"name": "weather", "arguments": {"town": "Bonn"}}</call>'
    assert pairs[0][0].completion == call.answer  # what a generated answer is scored against
    assert "<|im_start|>tool\nsunny<|im_end|>" in answer.text and call.answer in answer.text
    assert (second.completion, answer.answer) == ("No, sunny.", "")


def test_thoughts_are_rendered_by_the_template_and_learnt() -> None:
    row = {"id": "1", "messages": [U, {**A, "reasoning_content": "A greeting."}]}
    pairs, _ = render_all(renderer(WITH_TOOLS), conversation(row), 400)
    assert pairs[0][1].answer == "<think>A greeting.</think>Hello"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": CALLED}, "calls of tools: weather"),
        ({"messages": [U, A], "tools": [TOOL]}, r"tools that may be called \(weather\)"),
        ({"messages": [U, {**A, "reasoning_content": "A greeting."}]}, r"thoughts \(reasoning_content\)"),
    ],
)
@pytest.mark.parametrize("template", [CHATML, None])
def test_a_template_that_leaves_something_out_is_named_once(row: dict, expected: str, template: str | None) -> None:
    examples = [example for name in "abcd" for example in conversation({"id": name, **row})]
    with pytest.raises(UserError, match=expected) as caught:
        render_all(renderer(template), examples, 400)  # type: ignore[arg-type]
    text = str(caught.value)
    assert " examples: " in text and len(text.splitlines()) <= 3


def test_integer_labels_are_labels() -> None:
    row = {"id": 0, "text": "x"}
    assert choice(row, "x", ("0", "1"), 0).completion == "0"
    assert choice(row, "x", (0, 1), 0).choices == ("0", "1")
    assert choice(row, "x", (False, True), True).completion == "true"
    with pytest.raises(ValueError, match="'2' is none of 0, 1"):
        choice(row, "x", (0, 1), 2)


def reviews(folder: Path, count: int = 200, name: str = "reviews.csv") -> Path:
    lines = [f"Opinion {number};{('bad', 'fair', 'good')[number % 3]};2026" for number in range(count)]
    path = folder / name
    path.write_text("\n".join(["text;category;year", *lines]), encoding="utf-8")
    return path


def prepared(recipe: Recipe, **more: Any) -> PreparedData:
    return prepare_data(recipe, lambda _: renderer(), **more)


def test_one_file_with_text_and_label_is_a_whole_recipe(tmp_path: Path) -> None:
    recipe = completed(Recipe(data=reviews(tmp_path), text="text", label="category"))
    assert (recipe.primary_metric, list(recipe.metrics), list(recipe.baselines)) == (
        "macro_f1", ["macro_f1", "accuracy"], ["tfidf"],
    )  # fmt: skip
    data = prepared(recipe)
    assert {split: len(pairs) for split, pairs in data.pairs.items()} == {"train": 160, "validation": 20, "test": 20}
    for pairs in data.pairs.values():
        counts = [sum(e.completion == label for e, _ in pairs) / len(pairs) for label in ("bad", "fair", "good")]
        assert max(counts) - min(counts) <= 0.1
    example = data.pairs["train"][0][0]
    assert example.choices == ("bad", "fair", "good")
    assert example.prompt[0]["content"].endswith("\ncategory: bad, fair, good?")
    assert example.id.startswith("reviews.csv:")
    found = data.found["data"]
    assert (found.format, found.rows, list(found.unused)) == ("CSV, semicolons, UTF-8", 200, ["year"])
    assert list(found.shapes) == ["text and label: text, category (one of 3)"]
    assert recipe.inference_examples is not None
    (asked,) = recipe.inference_examples({"id": "n", "text": "New"})
    assert (asked.completion, asked.choices) == ("", example.choices)


def ids(recipe: Recipe, **more: Any) -> dict[str, list[str]]:
    return {split: [e.id for e, _ in pairs] for split, pairs in prepared(recipe, **more).pairs.items()}


def test_splits_of_one_file_hang_on_the_seed_alone(tmp_path: Path) -> None:
    recipe = Recipe(data=reviews(tmp_path), text="text", label="category")
    assert ids(recipe) == ids(recipe) != ids(Recipe(data=recipe.data, text="text", label="category", split_seed=1))
    some = prepared(recipe, limit=12).pairs["train"]
    assert len({e.completion for e, _ in some}) == 3  # the first ones are a fair sample
    assert prepared(recipe).fingerprints["test"].endswith(":test:seed=0")


def test_what_belongs_together_is_in_one_split(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "And more?"}, {"role": "assistant", "content": "No."}]
    given = [{"messages": [*row["messages"], *turns]} for row in rows(40)]
    given += [{"messages": [row["messages"][0], {"role": "assistant", "content": "Else."}]} for row in rows(40)]
    data = prepared(Recipe(data=write_rows(tmp_path / "talks.jsonl", given), metrics=("bleu",)))
    questions = {split: {e.prompt[0]["content"] for e, _ in pairs} for split, pairs in data.pairs.items()}
    for split, others in (("train", ("validation", "test")), ("validation", ("test",))):
        for other in others:
            assert not questions[split] & questions[other]
    assert sum(map(len, data.pairs.values())) == 120
    assert all(len(pairs) >= 6 for pairs in data.pairs.values())


def test_rare_classes_are_trained_on_and_too_few_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "".join(f"t{n},{'a' if n < 18 else n}\n" for n in range(24)))
    data = prepared(Recipe(data=path, text="text", label="label"))
    assert {e.completion for e, _ in data.pairs["train"]} == {"a", *map(str, range(18, 24))}
    path.write_text("text,label\na,x\nb,y\n")
    with pytest.raises(UserError, match="2 examples are too few to divide"):
        prepared(Recipe(data=path, text="text", label="label"))


@pytest.mark.parametrize(
    ("content", "given", "expected"),
    [
        (
            "text,label\na,x\nb,y\n",
            {"text": "text", "label": "lable"},
            "unknown column of .*'lable'; did you mean label",
        ),
        ("text,label\na,x\nb,x\n", {"text": "text", "label": "label"}, "has only the value 'x' in all rows"),
        (
            "text,label\n" + "".join(f"{n},{n}\n" for n in range(50)),
            {"text": "text", "label": "label"},
            "50 different values in 50 rows.*no classes.*answer",
        ),
        ("text,label\na,x\nb,\nc,\nd,y\n", {}, r"data: 2 rows: no 'label' \(d.csv:3, :4\)"),
        ("eins,zwei\na,x\n", {}, r"columns eins, zwei .*Recipe\(text=\.\.\., label=\.\.\.\)"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path: Path, content: str, given: dict, expected: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(UserError, match=expected):
        prepared(Recipe(data=tmp_path / "d.csv", **given))


def test_columns_are_named_right_or_not_at_all() -> None:
    with pytest.raises(UserError, match="text needs one of label and answer"):
        Recipe(data="d.csv", text="a")
    with pytest.raises(UserError, match="both say how a row becomes examples"):
        Recipe(data="d.csv", text="a", label="b", row_to_examples=conversation)
    with pytest.raises(UserError, match="methods is the text 'lora': with a comma it is a tuple"):
        Recipe(data="d.csv", methods="lora")
    with pytest.raises(UserError, match=r"of one file alone the splits are made"):
        Recipe(data={"train": "d.csv"})


def test_shapes_are_found_where_the_recipe_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(30)]))
    recipe = completed(Recipe(data=path))
    assert list(recipe.metrics) == ["bleu", "chrf", "perplexity"]
    assert prepared(recipe).found["data"].shapes == {"Alpaca: instruction, output and input": 30}
    faq = tmp_path / "faq.csv"
    faq.write_text("Frage,Antwort\n" + "".join(f"Was {n}?,Das {n}\n" for n in range(30)))
    data = prepared(Recipe(data=DataFile(faq), text="Frage", answer="Antwort"))
    assert data.found["data"].shapes == {"question and answer: Frage, Antwort": 30}
    (tmp_path / "l.csv").write_text("Text,Label\n" + "".join(f"t{n},{n % 2}\n" for n in range(30)))
    assert looked_at(Recipe(data=tmp_path / "l.csv")).row_to_examples.choices == ("0", "1")  # type: ignore[union-attr]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[dict[str, Path]]:
    def write(split: str, start: int) -> Path:
        values: list[dict] = [{"text": f"text {start + n}", "answer": f"a {n}"} for n in range(8)]
        if split == "train":
            values[5]["text"] = values[6]["text"] = None
        return write_rows(tmp_path / f"{split}.jsonl", values)

    yield {split: write(split, start) for split, start in (("train", 0), ("validation", 100), ("test", 200))}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda row: row["text"].strip(),
            r"2 rows: AttributeError \(test_shapes.py, line \d+\): 'NoneType'.*train.jsonl:6, :7",
        ),
        (lambda row: row["answer"].split()[2], r"8 rows: IndexError .*train.jsonl:1, :2, :3, \.\.\."),
        (lambda row: row["question"], "8 rows: no column 'question'"),
        (lambda row: {"a": 1}[row["answer"]], "KeyError .*line"),
        (lambda row: [row["id"]], "8 rows: row_to_examples gave a str, not an Example"),
        (lambda row: conversation({"id": "x", "messages": [U, A]}), "'x' stands at train.jsonl:1 already"),
    ],
)
def test_a_function_of_the_recipes_own_names_the_rows(three: dict[str, Path], make: Callable, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_splits(three, make)


def test_a_null_in_an_example_is_named(three: dict[str, Path]) -> None:
    from workbench import Example

    def make(row: Any) -> list[Example]:
        asked: Any = {"role": "user", "content": row["text"]}
        return [Example(id=row["id"], prompt=(asked,), completion=row["answer"])]

    with pytest.raises(UserError, match=r"message 1 of 'train.jsonl:6' is empty, not a text"):
        load_splits(three, make)
