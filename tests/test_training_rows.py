"""Turns of one conversation in one row: every token with the loss it has alone, computed once."""

from typing import Any

import torch

from tiny import make_tokenizer, rows
from workbench.data import conversation
from workbench.data.render import Rendered, make_renderer, render_all
from workbench.training import training_rows
from workbench.training.loss import IGNORED, RightPadding, labelled, negative_log_likelihoods
from workbench.training.rows import count_labels, lengths, pack_turns


def example(prompt: list[int], completion: list[int]) -> Rendered:
    return Rendered(id="", text="", prompt_ids=prompt, completion_ids=completion)


def labels_of(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [row["labels"] for row in rows]


def test_a_turn_goes_into_the_row_of_a_later_one() -> None:
    rows = list(pack_turns([example([1, 2], [3]), example([1, 2, 3, 4], [5, 6]), example([1, 2, 3, 4, 5, 6, 7], [8])]))
    assert labels_of(rows) == [[IGNORED, IGNORED, 3, IGNORED, 5, 6, IGNORED, 8]]
    assert rows[0]["length"] == len(rows[0]["input_ids"]) == 8


def test_each_example_is_trained_on_once() -> None:
    # Two conversations with the same first turn: one row each, the first turn labelled in both.
    first = example([1, 2], [3])
    rows = list(pack_turns([first, example([1, 2, 3, 4], [5]), first, example([1, 2, 3, 6], [7])]))
    assert sorted(labels_of(rows)) == [[IGNORED, IGNORED, 3, IGNORED, 5], [IGNORED, IGNORED, 3, IGNORED, 7]]
    # The same question three times and one conversation that goes on: nothing is lost.
    rows = list(pack_turns([first, first, first, example([1, 2, 3, 4], [5])]))
    assert sum(label != IGNORED for row in rows for label in row["labels"]) == 4


def test_what_only_begins_alike_stays_apart() -> None:
    # The second prompt has the first prompt in it, and another answer.
    apart = [example([1, 2], [3, 4]), example([1, 2, 3, 9], [5]), example([1, 2], [3, 4])]
    assert len(list(pack_turns(apart))) == 3


def test_the_loss_is_that_of_the_examples_alone(model: Any) -> None:
    row = {
        "id": "one",
        "messages": [
            {"role": "user", "content": "What does a transfer cost?"},
            {"role": "assistant", "content": "It costs €4."},
            {"role": "user", "content": "And abroad?"},
            {"role": "assistant", "content": "Abroad it costs 2%."},
        ],
    }
    rendered = list(render_all(make_renderer(make_tokenizer()), conversation(row), 200)[0].rendered)
    assert len(rendered) == 2
    packed = list(pack_turns(rendered))
    assert len(packed) == 1
    together, _ = negative_log_likelihoods(model, **RightPadding(0)(packed))
    alone = [negative_log_likelihoods(model, **RightPadding(0)([labelled(item)]))[0] for item in rendered]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_padding_to_a_multiple_changes_nothing(model: Any) -> None:
    rendered = [example(list(range(3, 12)), [20, 21]), example([5, 6], [7, 8, 9])]
    rows = [labelled(item) for item in rendered]
    exact, _ = negative_log_likelihoods(model, **RightPadding(0)(rows))
    padded = RightPadding(0, 8)(rows)
    assert padded["input_ids"].shape == (2, 16)
    assert torch.allclose(negative_log_likelihoods(model, **padded)[0], exact, atol=1e-4)


def test_lengths_and_labels_are_of_the_rows_that_were_selected() -> None:
    given = []
    for number, row in enumerate(rows(12)):
        row["messages"][1]["content"] += " And so on." * (number % 4)
        given += conversation(row)
    pairs, _ = render_all(make_renderer(make_tokenizer()), given, 400)
    made = training_rows(pairs.rendered, pairs.rendered).train
    chosen = [5, 1, 8]
    some, few = made.select(chosen), pairs.part(chosen)
    assert lengths(some).tolist() == [made[index]["length"] for index in chosen]
    assert count_labels(some) == sum(label != -100 for index in chosen for label in made[index]["labels"])
    assert few.lengths.tolist() == [item.length for item in few.rendered]
    assert few.completion_lengths.tolist() == [len(item.completion_ids) for item in few.rendered]
