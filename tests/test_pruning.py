"""Leaving choices unread changes neither the best one nor its probability, whatever the model, labels and scores."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model

from test_decode import config
from tiny import KINDS, make_model, make_tokenizer
from workbench.data import Example
from workbench.data.render import make_renderer
from workbench.evaluation import Calibration, Prediction, choose, find_metric, fit_calibrations, read_predictions
from workbench.evaluation import write_predictions as write
from workbench.evaluation.calibration import FITTED_CHOICES, fitting_sample, prefix_free
from workbench.evaluation.metrics.choice import rank
from workbench.generation import choices as reading
from workbench.generation.choices import read_choices
from workbench.generation.engine import LocalModel
from workbench.generation.language_model import ChoiceLikelihoods
from workbench.generation.pruning import TOLERANCE, Needed, Reading
from workbench.generation.tree import ROOT, ChoiceTree

BY = ("sum", "mean", "calibrated", "constrained")
ALIKE = [[7, 9, 4], [7, 9, 5], [7, 8], [7, 8, 3], [40], [50, 51, 52, 53, 54, 55], [60, 61], [60, 62, 63], [99]]


def drawn_choices(seed: int, count: int, ended: bool = True) -> list[list[int]]:
    """Choices that often begin alike; `ended` ones end in a token of their own, so that none begins another."""
    random = np.random.default_rng(seed)
    found = {tuple(random.integers(3, 9, random.integers(1, 6)).tolist()) for _ in range(4 * count)}
    some = sorted(found)[:: max(1, len(found) // count)][:count]
    return [[*ids, 2] if ended else list(ids) for ids in some]


@pytest.mark.parametrize("choices", [drawn_choices(1, 40), drawn_choices(2, 40, ended=False), ALIKE, [[5]], [[5], [5]]])
def test_a_tree_holds_what_choices_begin_with_once(choices: list[list[int]]) -> None:
    tree = ChoiceTree(choices)
    assert len(tree.tokens) == 1 + len({tuple(ids[: n + 1]) for ids in choices for n in range(len(ids))})
    assert [tree.tokens[path[1:]].tolist() for path in tree.paths] == choices
    assert tree.lengths.tolist() == list(map(len, choices))
    assert tree.prefix_free == prefix_free(choices)
    for node in range(len(tree.tokens)):
        below = {int(other) for path in tree.paths if node in path for other in path[tree.depths[node] :]}
        assert below == set(range(node, int(tree.ends[node])))
        assert [tree.path_to(int(child))[:-1] for child in tree.children[node]] == [tree.path_to(node)] * len(
            tree.children[node]
        )
    for width in (1, 8, 1000):
        rows = list(tree.rows(max(width, int(tree.lengths.max())) if width > 1 else 1))
        assert {node for row in rows for node in row} == set(tree.inner)
        for row in rows:
            assert len(row) <= max(width, int(tree.lengths.max()))
            assert all(set(tree.path_to(node)) <= set(row) for node in row)
            assert width > 1 or row == tree.path_to(row[-1])


def conditionals(tree: ChoiceTree, seed: int, sharpness: float) -> list[np.ndarray]:
    """Log-probabilities of the children of each node: shares of one, some of it going elsewhere."""
    random = np.random.default_rng(seed)
    return [np.log(random.dirichlet(np.full(len(below) + 1, 1 / sharpness)) + 1e-9)[:-1] for below in tree.children]


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("sharpness", [0.2, 5.0, 50.0])
def test_it_reads_until_the_bound_holds(by: str, ended: bool, sharpness: float) -> None:
    constrained = by == "constrained"
    if constrained and not ended:
        pytest.skip("what begins another choice has no share of its own")
    unread, most = 0, 0
    for seed in range(30):
        choices = drawn_choices(seed, 40, ended)
        tree = ChoiceTree(choices)
        logs = conditionals(tree, seed, sharpness)
        exact = Reading(tree)
        exact.take([ROOT, *exact.wanted()], np.concatenate(logs))
        assert not exact.wanted()
        random = np.random.default_rng(seed)
        calibration = Calibration(
            by="sum" if constrained else by, constrained=constrained, temperature=float(random.choice([0.3, 1.0, 4.0])),
            prior={str(n): float(random.normal(-5, 2)) for n in range(len(choices))},
        )  # fmt: skip
        names = [str(n) for n in range(len(choices))]
        slopes, offsets = calibration.line(names, tree.lengths)
        kept = int(random.integers(len(choices)))
        needed = Needed(slopes=slopes, offsets=offsets, kept=[kept], tolerance=TOLERANCE)
        some = Reading(tree, needed, constrained)
        some.take([ROOT], logs[ROOT])
        expected = exact.constrained_logprobs if constrained else exact.logprobs
        assert expected is not None
        scores = slopes * expected - offsets
        weights = np.exp(scores - scores.max())
        read = {ROOT}
        while wanted := some.wanted():
            assert read.isdisjoint(wanted)
            for node in wanted:
                assert tree.path_to(node)[:-1] == [one for one in tree.path_to(node)[:-1] if one in read]
                read.add(node)
            some.take(wanted, np.concatenate([logs[node] for node in wanted]))
            assert (some.logprobs >= expected - 1e-6).all()
        known = [n for n in range(len(choices)) if n not in some.bounds]
        np.testing.assert_allclose(some.logprobs[known], expected[known], atol=1e-12)
        assert kept in known
        assert int(scores.argmax()) in known
        assert weights[sorted(some.bounds)].sum() <= TOLERANCE * weights.sum()
        unread, most = unread + len(some.bounds), most + len(choices)
        assert not constrained or all(len(tree.children[node]) > 1 or below_is_read(tree, node, read) for node in read)
    assert unread < most or constrained
    assert unread > most // 5 or sharpness < 50, "what is unlikely was read"


def below_is_read(tree: ChoiceTree, node: int, read: set[int]) -> bool:
    """Whether a node behind it was read: without that, one that only one token can follow tells nothing."""
    return any(other in read for other in range(node + 1, int(tree.ends[node])))


def test_under_a_constraint_shares_are_those_of_what_can_follow() -> None:
    tree = ChoiceTree([[7, 9, 4], [7, 9, 5], [7, 8, 2], [40, 2], [50, 51, 2]])
    exact = Reading(tree)
    logs = {ROOT: [0.2, 0.1, 0.1], 7: [0.01, 0.03], 9: [0.6, 0.2]}
    by_node = [
        np.log(np.array(logs.get(int(token), [0.5] * len(b))))
        for token, b in zip(tree.tokens, tree.children, strict=True)
    ]
    by_node[ROOT] = np.log(np.array(logs[ROOT]))
    exact.take([ROOT, *exact.wanted()], np.concatenate(by_node))
    assert exact.constrained_logprobs is not None
    shares = [0.5 * 0.75 * 0.75, 0.5 * 0.75 * 0.25, 0.5 * 0.25, 0.25, 0.25]
    np.testing.assert_allclose(np.exp(exact.constrained_logprobs), shares)
    needed = Needed(slopes=np.ones(5), offsets=np.zeros(5), kept=[], tolerance=TOLERANCE)
    some = Reading(tree, needed, constrained=True)
    some.take([ROOT], by_node[ROOT])
    assert [int(tree.tokens[node]) for node in some.wanted()] == [7]
    some.take(some.wanted(), by_node[1])
    assert [int(tree.tokens[node]) for node in some.wanted()] == [9]
    some.take(some.wanted(), by_node[int(np.flatnonzero(tree.tokens == 9)[0])])
    assert not some.wanted()
    np.testing.assert_allclose(np.exp(some.logprobs), shares)


def test_a_choice_that_begins_another_has_no_share() -> None:
    tree = ChoiceTree([[7], [7, 8]])
    exact = Reading(tree)
    exact.take([ROOT, *exact.wanted()], np.log(np.array([0.5, 0.5])))
    assert exact.constrained_logprobs is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_and_its_probability_are_those_of_reading_all(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_to_all(kind, "none", monkeypatch)


@pytest.mark.parametrize("adapter", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
def test_the_same_with_adapters(kind: str, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_to_all(kind, adapter, monkeypatch)


def compare_to_all(kind: str, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make_model(kind)
    if adapter != "none":
        model = get_peft_model(model, config(adapter)).eval()
    local = LocalModel(model, make_renderer(make_tokenizer()))
    monkeypatch.setattr(reading, "PADDED_TOKENS", 3)  # groups of few rows
    monkeypatch.setattr(reading, "STEPWISE", 6 if kind in ("gpt-neo", "gpt-oss", "gemma3") else 64)
    monkeypatch.setattr(reading, "ROW_TOKENS", 8)
    # Common beginnings, one that begins another, single tokens.
    prompts = [list(range(3, 3 + length)) for length in (6, 5, 5, 3)] + [[3, 9, 4, 9, 4, 11, 30]]
    for given in (drawn_choices(3, 30), drawn_choices(4, 30, ended=False), ALIKE, [[5], [6], [7]], [[5, 6, 2]]):
        tree = ChoiceTree(given)
        exact = [Reading(tree) for _ in prompts]
        read_choices(model, prompts, exact, 0, local.linear_output, False)
        alone = [Reading(tree) for _ in prompts]
        for prompt, one in zip(prompts, alone, strict=True):
            read_choices(model, [prompt], [one], 0, False, False)
        for by in BY:
            for temperature in (0.2, 1.0, 10.0):
                prior = {str(n): -float(n % 7) for n in range(len(given))}
                constrained = by == "constrained"
                way = "sum" if constrained else by
                calibration = Calibration(by=way, constrained=constrained, temperature=temperature, prior=prior)
                slopes, offsets = calibration.line([str(n) for n in range(len(given))], tree.lengths)
                needed = Needed(slopes=slopes, offsets=offsets, kept=[len(given) // 2], tolerance=TOLERANCE)
                if constrained and not tree.prefix_free:
                    continue
                some = [Reading(tree, needed, constrained) for _ in prompts]
                read_choices(model, prompts, some, 0, local.linear_output, local.branching)
                for pruned, whole, single in zip(some, exact, alone, strict=True):
                    agree(pruned, whole, calibration, needed.kept)
                    np.testing.assert_allclose(whole.logprobs, single.logprobs, rtol=1e-3, atol=1e-3)


def agree(pruned: Reading, whole: Reading, calibration: Calibration, kept: Sequence[int]) -> None:
    """What was read in part says the same of the best."""
    names = [str(n) for n in range(len(whole.logprobs))]
    logs, all_logs = (
        calibration.log_probabilities(
            names,
            ChoiceLikelihoods(
                logprobs=one.logprobs,
                tokens=one.tree.lengths,
                bounds=one.bounds,
                constrained=one.constrained_logprobs,
            ),
        )
        for one in (pruned, whole)
    )
    assert not pruned.bounds & set(kept)
    known = [n for n in range(len(logs)) if n not in pruned.bounds]
    np.testing.assert_allclose(logs[known], all_logs[known], atol=TOLERANCE + 2e-3 / calibration.temperature)
    assert (logs >= all_logs - 2e-3 / calibration.temperature).all()
    best = max(known, key=lambda n: logs[n])
    assert all_logs[best] == pytest.approx(all_logs.max(), abs=2e-3 / calibration.temperature)
    assert math.exp(logs[best]) == pytest.approx(math.exp(all_logs.max()), rel=3 * TOLERANCE)


def test_a_certain_model_leaves_most_choices_unread_and_a_flat_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    passes: list[int] = []
    read = reading._Behind._read_rows

    def counted(*arguments: Any, **options: Any) -> None:
        passes.append(sum(len(row.nodes) for row in arguments[1]))
        read(*arguments, **options)

    monkeypatch.setattr(reading._Behind, "_read_rows", counted)
    choices = drawn_choices(5, 60)
    tree = ChoiceTree(choices)

    def unread(temperature: float) -> tuple[int, int]:
        passes.clear()
        slopes, offsets = Calibration(temperature=temperature).line([""] * len(choices), tree.lengths)
        some = [Reading(tree, Needed(slopes=slopes, offsets=offsets, kept=[], tolerance=TOLERANCE)) for _ in range(4)]
        read_choices(model, [[3, 4, 5], [3, 4, 6], [3, 5], [8]], some, 0, branching=True)
        return sum(len(one.bounds) for one in some), sum(passes)

    (few_left, many_read), (many_left, few_read) = unread(1000.0), unread(0.05)
    assert few_left == 0
    assert many_left > len(choices)
    assert few_read < many_read / 3


def test_merged_chooses_as_the_adapter_does() -> None:
    torch.manual_seed(0)
    model = get_peft_model(make_model("llama"), config("lora")).eval()
    renderer = make_renderer(make_tokenizer())
    examples, calibrations = asked(12), {"": Calibration(temperature=0.5)}
    before = choose(LocalModel(model, renderer), examples, calibrations, "test", "", prune=True)
    merged = model.merge_and_unload()
    after = choose(LocalModel(merged, renderer), examples, calibrations, "test", "", prune=True)
    for one, other in zip(before, after, strict=True):
        assert one.prediction == other.prediction
        assert one.bounds == other.bounds
        assert one.choices == pytest.approx(other.choices, abs=1e-2)


LABELS = tuple(f"{what} {more}" for what in ("card", "loan", "app", "scam") for more in ("fee", "lost", "new", "?"))


TWICE = tuple(f"{label} {n}" for n in range(2) for label in LABELS)


def asked(count: int, start: int = 0) -> list[Example]:
    return [
        Example(
            id=str(number), prompt=({"role": "user", "content": f"Question {number}?"},), choices=LABELS,
            completion=LABELS[number % 7],
        )
        for number in range(start, start + count)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt1"])
def test_what_was_left_unread_is_marked_and_written(kind: str, tmp_path: Any) -> None:
    local = LocalModel(make_model(kind), make_renderer(make_tokenizer()))
    examples, calibrations = asked(9), {"": Calibration(temperature=0.05)}
    some = choose(local, examples, calibrations, "test", "", prune=True)
    kept = choose(local, examples, calibrations, "test", "", prune=True, kept=LABELS[-2:])
    whole = choose(local, examples, calibrations, "test", "")
    assert any(one.bounds for one in some) == (kind != "gpt1")
    assert not any(one.bounds for one in whole)
    for one, other, exact in zip(some, kept, whole, strict=True):
        assert one.prediction == exact.prediction
        assert one.nll == pytest.approx(exact.nll, rel=1e-4)
        assert one.choices.keys() == exact.choices.keys()
        assert all(one.choices[name] >= exact.choices[name] - 2e-2 for name in LABELS)
        assert other.bounds.isdisjoint(LABELS[-2:])
        assert {one.prediction, one.reference}.isdisjoint(one.bounds)
    write(tmp_path, some)
    assert [one.bounds for one in read_predictions(tmp_path)] == [one.bounds for one in some]
    assert ("0.1%" in find_metric("ece").signature(some)) == (kind != "gpt1")
    assert "0.1%" not in find_metric("ece").signature(whole)
    for name in ("accuracy", "macro_f1", "mcc", "ece"):
        assert not find_metric(name).needs_all_choices
        assert find_metric(name).value(some) == pytest.approx(find_metric(name).value(whole), rel=2e-3)
    assert all(find_metric(name).needs_all_choices for name in ("auc", "hit_10", "ndcg_10"))


def test_a_place_that_was_not_measured_is_no_place() -> None:
    answer = Prediction(
        id="1", split="test", prompt="", reference="b", prediction="a", nll=1.0, tokens=1,
        choices={"a": -0.1, "b": -3.0, "c": -9.0, "d": -2.0}, bounds=frozenset("c"),
    )  # fmt: skip
    assert rank(answer) == (2, 3)
    with pytest.raises(ValueError, match="not measured"):
        rank(Prediction(**{**vars(answer), "bounds": frozenset("d")}))


class Told:
    """Finds choices as likely as it is told."""

    def __init__(self, logprobs: np.ndarray, constrained: np.ndarray) -> None:
        self.logprobs, self.constrained = logprobs, constrained

    def prompt(self, conversation: Any) -> str:
        return ""

    def loglikelihood(self, conversations: Sequence[Any], choices: Any, **_: Any) -> list[ChoiceLikelihoods]:
        numbers = [int(conversation[0]["content"].split()[1].rstrip("?")) for conversation in conversations]
        return [
            ChoiceLikelihoods(
                logprobs=self.logprobs[n], tokens=np.ones(len(TWICE), dtype=int), constrained=self.constrained[n]
            )
            for n in numbers
        ]


@pytest.mark.parametrize(("better", "constrained"), [(0, True), (1, True), (12, False)])
def test_of_many_choices_another_way_must_be_clearly_better(better: int, constrained: bool) -> None:
    examples = [replace(one, choices=TWICE, completion=TWICE[number % 7]) for number, one in enumerate(asked(40))]
    right = np.full((40, len(TWICE)), -5.0)
    right[np.arange(40), np.arange(40) % 7] = -0.1
    other = right.copy()
    other[:better] = np.roll(other[:better], 1, axis=1)  # the constrained one is wrong of so many

    def accuracy(answers: Sequence[Prediction]) -> float:
        return find_metric("accuracy").value(answers)

    told: Any = Told(right, other)
    (found,) = fit_calibrations(told, examples, [], accuracy, "", prune=True)[0].values()
    assert (found.by, found.constrained) == ("sum", constrained)
    (found,) = fit_calibrations(told, examples, [], accuracy, "", prune=False)[0].values()
    assert (found.by, found.constrained) == ("sum", False)


def test_a_prior_under_the_constraint_is_one_of_the_ways() -> None:
    examples = [replace(one, choices=TWICE, completion=TWICE[number % 7]) for number, one in enumerate(asked(40))]
    logs = np.full((40, len(TWICE)), -5.0)
    logs[:, 9] = -1.0  # always the likeliest
    logs[np.arange(40), np.arange(40) % 7] = -2.0
    told: Any = Told(np.full_like(logs, -1.0), logs)
    found, answers = fit_calibrations(told, examples, [], find_metric("accuracy").value, "", prune=True)
    assert (found[""].by, found[""].constrained) == ("calibrated", True)
    assert all(one.prediction == one.reference for one in answers)
    assert found[""].summary()["constrained"] is True


def test_a_calibration_is_fitted_to_a_sample_of_many() -> None:
    few, many = asked(40), asked(2000)
    assert fitting_sample(few) == few
    some = fitting_sample(many)
    assert some == fitting_sample(many)
    assert len(some) == FITTED_CHOICES // len(LABELS)
    counts = [sum(one.completion == label for one in some) for label in LABELS[:7]]
    assert max(counts) - min(counts) <= 2
    local = LocalModel(make_model("llama"), make_renderer(make_tokenizer()))
    accuracy = find_metric("accuracy").value
    found, answers = fit_calibrations(local, asked(600), [], accuracy, "", prune=True)
    assert found[""].fitted_on == FITTED_CHOICES // len(LABELS)
    assert [one.id for one in answers] == [str(n) for n in range(600)]
    assert found[""].summary()["fitted_on"] == FITTED_CHOICES // len(LABELS)
    whole, _ = fit_calibrations(local, asked(600), [], accuracy, "")
    assert whole[""].fitted_on == 600
