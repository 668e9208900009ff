"""Choosing: likelihoods are those of whole texts, what validation shows is used, and scores are the textbook's."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from sklearn import metrics as sk

from test_decode import config
from tiny import KINDS, make_model, recipe_text, write_rows
from workbench.data import Example, choice
from workbench.data.render import Rendered, make_renderer
from workbench.errors import UserError
from workbench.evaluation import Calibration, Prediction, find_metric, fit_calibrations, score_all
from workbench.evaluation.baselines import tfidf
from workbench.evaluation.calibration import fit_temperature, log_softmax, prefix_free, with_prior
from workbench.generation import context
from workbench.generation.branches import inside_window, reads_branches
from workbench.generation.choices import read_choices
from workbench.generation.engine import LocalModel
from workbench.generation.language_model import ChoiceLikelihoods
from workbench.generation.pruning import Reading
from workbench.generation.tree import ChoiceTree
from workbench.models import has_linear_output
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned
from workbench.training.loss import RightPadding, labelled, negative_log_likelihoods

SENTIMENTS = ("negative", "neutral", "positive")
Choices = Sequence[Sequence[Sequence[int]]]


def choice_nlls(
    model: Any, prompts: Sequence[Sequence[int]], choices: Choices, linear_output: bool = False, branching: bool = False
) -> list[list[float]]:
    """Nats of all choices behind each prompt."""
    readings = [Reading(ChoiceTree(given)) for given in choices]
    read_choices(model, prompts, readings, 0, linear_output, branching)
    assert not any(reading.bounds for reading in readings)
    return [(-reading.logprobs).tolist() for reading in readings]


@pytest.mark.parametrize("adapter", ["none", "houlsby", "prefix", "prompt"])
@pytest.mark.parametrize("kind", ["gpt1", "gpt2", "llama", "gemma3"])
def test_nats_are_those_of_whole_texts(kind: str, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (kind, adapter) == ("gpt1", "prefix"):
        pytest.skip("GPT-1 takes no keys and values")
    monkeypatch.setitem(context.READ_TOKENS, "cpu", 40)  # two rows together
    torch.manual_seed(0)
    model = make_model(kind)
    if adapter != "none":
        model = get_peft_model(model, config(adapter)).eval()
    prompts = [list(range(3, 3 + length)) for length in (4, 17, 9)]
    choices = [[[7], [7, 9, 2], [30, 2]], [[5, 2], [8, 8, 8, 8, 2]], [[100], [101]]]
    assert reads_branches(model) == (kind != "gpt1")
    for linear_output, branching in ((False, False), (False, True), (has_linear_output(model), True)):
        if branching and not reads_branches(model):
            continue
        found = choice_nlls(model, prompts, choices, linear_output, branching)
        assert [len(nll) for nll in found] == [3, 2, 2]
        for prompt, given, nll in zip(prompts, choices, found, strict=True):
            for ids, value in zip(given, nll, strict=True):
                item = Rendered(id="", text="", prompt_ids=prompt, completion_ids=ids)
                losses, _ = negative_log_likelihoods(model, **RightPadding(0)([labelled(item)]))
                assert value == pytest.approx(losses.sum().item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cached_architecture_reads_choices_in_one_row(kind: str) -> None:
    model = make_model(kind)
    assert reads_branches(model) == (kind != "gpt1")
    windowed = kind in ("gpt-neo", "gpt-oss", "gemma3")  # of 16 tokens
    assert inside_window(model, 16)
    assert inside_window(model, 17) != windowed


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_reads_choices_otherwise_gets_a_row_for_each(
    ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make_model("gpt2")
    forward = model.forward

    def without(input_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        return forward(input_ids=input_ids, past_key_values=past_key_values, **{**kwargs, ignored: None})

    monkeypatch.setattr(model, "forward", without)
    assert not reads_branches(model)


def test_choices_that_fill_several_rows_are_measured_alike() -> None:
    torch.manual_seed(0)
    model = make_model("llama")
    prompts = [[3, 4, 5], list(range(6, 20))]
    choices = [[[token, *range(token, token + length), 2] for token in range(20, 90) for length in (1, 9)]] * 2
    together = choice_nlls(model, prompts, choices, branching=True)
    apart = choice_nlls(model, prompts, choices)
    np.testing.assert_allclose(together, apart, rtol=1e-4)


class Measured:
    """A language model whose likelihoods are given."""

    def __init__(self, nll: Sequence[Sequence[float]], lengths: Sequence[int]) -> None:
        self.found = [ChoiceLikelihoods(logprobs=-np.array(values), tokens=np.array(lengths)) for values in nll]

    def prompt(self, conversation: Any) -> str:
        return str(conversation[-1]["content"])

    def loglikelihood(self, *_: Any, **__: Any) -> list[ChoiceLikelihoods]:
        return self.found

    def generate(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream(self, *_: Any) -> Any:
        raise NotImplementedError


def accuracy(answers: Sequence[Prediction]) -> float:
    return find_metric("accuracy").value(answers)


@pytest.mark.parametrize(
    ("by", "nll", "lengths", "right"),
    [
        # The plain likelihood is right; nothing more elaborate is taken.
        ("sum", [(1, 2, 3), (2, 1, 3), (3, 2, 1)], (2, 2, 2), SENTIMENTS),
        # "positive" has four times as many tokens, and as many nats more.
        ("mean", [(1, 2, 8), (2, 1, 8), (2, 2, 4)], (2, 2, 8), SENTIMENTS),
        # "negative" is the likeliest behind any text.
        ("calibrated", [(1, 6, 6), (2, 5, 6), (2, 6, 5)], (2, 2, 2), SENTIMENTS),
    ],
)
def test_validation_decides_how_likelihoods_are_read(
    by: str, nll: list[tuple[float, ...]], lengths: tuple[int, ...], right: Sequence[str]
) -> None:
    examples = [choice({"id": str(number)}, "?", SENTIMENTS, answer) for number, answer in enumerate(right)]
    found, answers = fit_calibrations(Measured(nll, lengths), examples, [], accuracy, "")
    fitted = found[""]
    assert fitted.by == by
    assert accuracy(answers) == 100
    assert all(sum(map(math.exp, answer.choices.values())) == pytest.approx(1) for answer in answers)


def test_the_end_counts_where_a_choice_begins_another() -> None:
    assert prefix_free([[1, 2], [1, 3], [4]])
    assert not prefix_free([[1, 2], [4], [1, 2, 3]])
    assert not prefix_free([[1], [1]])


def test_the_temperature_makes_probabilities_true() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(4000, 3)) * 2
    right = [int(random.choice(3, p=np.exp(log_softmax(row)))) for row in scores]
    assert fit_temperature(list(5 * scores), right) == pytest.approx(5, rel=0.1)


def chosen(probabilities: np.ndarray, right: Sequence[int]) -> list[Prediction]:
    return [
        Prediction(
            id=str(number),
            split="test",
            prompt="",
            reference=SENTIMENTS[index],
            prediction=SENTIMENTS[int(row.argmax())],
            nll=-math.log(row[index]),
            tokens=2,
            choices=dict(zip(SENTIMENTS, np.log(row), strict=True)),
        )
        for number, (row, index) in enumerate(zip(probabilities, right, strict=True))
    ]


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet((1, 2, 1), size=300)
    right = [int(random.choice(3, p=row)) for row in probabilities]
    answers = chosen(probabilities, right)
    got = list(probabilities.argmax(axis=1))
    assert find_metric("accuracy").value(answers) == pytest.approx(100 * sk.accuracy_score(right, got))
    assert find_metric("macro_f1").value(answers) == pytest.approx(100 * sk.f1_score(right, got, average="macro"))
    assert find_metric("mcc").value(answers) == pytest.approx(sk.matthews_corrcoef(right, got))
    each = [
        sk.roc_auc_score([index == column for column in range(3)], row)
        for row, index in zip(probabilities, right, strict=True)
    ]
    assert find_metric("auc").value(answers) == pytest.approx(np.mean(each))
    # True probabilities are calibrated; the same ones sharpened are not.
    assert find_metric("ece").value(answers) < 7
    sharp = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    assert find_metric("ece").value(chosen(sharp, right)) > 15


def test_places_of_the_right_choice() -> None:
    names = [f"film {number}" for number in range(100)]

    def answer(place: int) -> Prediction:
        logs = {name: -float(number) for number, name in enumerate(names)}
        return Prediction(
            id=str(place), split="test", prompt="", reference=names[place], prediction=names[0], nll=1.0, tokens=1,
            choices=logs,
        )  # fmt: skip

    answers = [answer(0), answer(9), answer(10), answer(99)]
    assert find_metric("hit_10").value(answers) == 50
    assert find_metric("ndcg_10").value(answers) == pytest.approx((1 + 1 / math.log2(11)) / 4)
    assert find_metric("auc").value(answers) == pytest.approx((1 + 90 / 99 + 89 / 99 + 0) / 4)


def test_metrics_score_what_they_are_for() -> None:
    written = Prediction(id="w", split="write", prompt="", reference="a b c d", prediction="a b c d", nll=1.0, tokens=4)
    scores = score_all(
        [find_metric("bleu"), find_metric("accuracy")], [written, *chosen(np.array([[0.5, 0.3, 0.2]]), [0])]
    )
    assert scores.keys() == {"bleu", "bleu[write]", "accuracy", "accuracy[test]"}
    assert scores["bleu[write]"].value == pytest.approx(100)
    assert scores["accuracy[test]"].value == 100


def test_tfidf_learns_words_of_both_languages() -> None:
    words = {"negative": ("loss", "亏损"), "neutral": ("meeting", "会议"), "positive": ("record", "新高")}

    def made(start: int, count: int) -> list[Example]:
        return [
            choice(
                {"id": f"{label}{number}{language}"}, f"{label_words[language]} firm {number} 公司", SENTIMENTS, label
            )
            for label, label_words in words.items()
            for language in (0, 1)
            for number in range(start, start + count)
        ]

    asked = made(100, 5)
    guesses = tfidf(made(0, 20), made(50, 5), asked)
    assert guesses.parameters > 30
    assert all(
        max(logs, key=logs.__getitem__) == e.completion
        for logs, e in zip(guesses.log_probabilities, asked, strict=True)
    )


@pytest.mark.parametrize(
    ("row", "answer", "choices", "problem"),
    [
        ({"id": "1"}, "good", SENTIMENTS, "'good' is none of negative, neutral, positive"),
        ({}, "neutral", SENTIMENTS, "no id"),
        ({"id": "1"}, "neutral", ("neutral",), "two or more"),
    ],
)
def test_a_wrong_row_is_named(row: dict[str, str], answer: str, choices: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        choice(row, "How?", choices, answer)


RECIPE = """
from workbench.data import choice
from workbench.evaluation.baselines import tfidf
from dataclasses import replace

def sentiment(row):
    return [choice(row, row["text"], ("negative", "neutral", "positive"), row["label"], task="sentiment")]

def both(row):
    answer = "en" if row["text"].isascii() else "zh"
    return [*sentiment(row), choice(row, row["text"] + " Language?", ("en", "zh"), answer, task="language")]

recipe = replace(recipe, data={s: recipe.data[s] for s in ("train", "validation", "test")}, row_to_examples=both,
    metrics=("macro_f1", "accuracy", "mcc", "ece"), primary_metric="macro_f1", baselines={"tfidf": tfidf})
"""


@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_a_recipe_that_chooses_to_the_end(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 24), ("validation", 9), ("test", 12)):
        rows = [
            {"id": f"{split}{n}", "text": f"{split} {('loss', 'gain', '盈利')[n % 3]} {n}", "label": SENTIMENTS[n % 3]}
            for n in range(count)
        ]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    path = tmp_path / "chooses.py"
    path.write_text(recipe_text(checkpoint, tmp_path) + RECIPE)
    out = tmp_path / "out"
    assert main([str(path), "--methods", "untuned,lora,prompt", "--bits", "32", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| tfidf" in printed
    results = json.loads((out / "results.json").read_text())
    runs = {record["method"]: record for record in results["runs"]}
    assert list(runs) == ["tfidf", "untuned", "lora", "prompt"]
    for name, record in runs.items():
        assert record["status"] == "done", record["error"]
        assert {"macro_f1[test]", "accuracy", "mcc", "ece"} <= record["metrics"].keys()
        rows = [json.loads(line) for line in (out / name / "predictions.jsonl").open()]
        assert len(rows) == 24
        asked = [row for row in rows if row["id"].endswith("#sentiment")]
        assert all(row["prediction"] in SENTIMENTS for row in asked)
        assert all(row["scores"]["choices"].keys() == set(SENTIMENTS) for row in asked)
        assert record["export"]["merged"] == (name in ("lora", "prompt")), record["export"]
        if name != "tfidf":
            fitted = json.loads((out / name / "choosing.json").read_text())
            assert fitted.keys() == {"sentiment", "language"}
            Calibration(**fitted["sentiment"])
            assert record["choosing"]["language"]["by"] in ("sum", "mean", "calibrated")
    assert len(results["comparisons"]) == 6
    for name in ("lora", "prompt"):  # opened later, it says what it said
        tuned = load_tuned(RunFolder.open(out), name)
        assert isinstance(tuned.recipe.row_to_examples, FunctionType)
        test = [json.loads(line) for line in (tmp_path / "test.jsonl").open()]
        answers = tuned.choose([example for row in test for example in tuned.recipe.row_to_examples(row)])
        before = [json.loads(line) for line in (out / name / "predictions.jsonl").open()]
        for answer, row in zip(answers, before, strict=True):
            assert (answer.id, answer.prediction) == (row["id"], row["prediction"])
            assert answer.choices == pytest.approx(row["scores"]["choices"], abs=1e-4)
    page = (out / "report.html").read_text()
    assert page.count("Confusion matrix of") >= 4
    assert main(["--resume", str(out)]) == 0
    capsys.readouterr()
    assert main([str(path), "--methods", "lora", "--bits", "32", "--check"]) == 0
    assert "the whole run: 0:0" in capsys.readouterr().out


def test_completions_do_not_depend_on_the_prompt(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer)
    example = choice({"id": "1"}, "Losses again?", SENTIMENTS, "negative", system="Bank")
    assert renderer.completions(SENTIMENTS)["negative"] == renderer.render(example).completion_ids


def test_new_choices_get_a_prior_of_their_own(tokenizer: Any) -> None:
    model = LocalModel(make_model("llama"), make_renderer(tokenizer))
    contexts = [({"role": "user", "content": text},) for text in ("One?", "Two?")]
    prior = {"negative": -1.0, "neutral": -2.0, "positive": -3.0}
    calibration = Calibration(by="calibrated", prior=prior, contexts=contexts)
    widened = with_prior(model, calibration, [*SENTIMENTS, "mixed"])
    assert {name: widened.prior[name] for name in SENTIMENTS} == prior
    logprobs = [model.loglikelihood([context], [["mixed"]])[0].logprobs[0] for context in contexts]
    assert widened.prior["mixed"] == pytest.approx(math.log(np.mean(np.exp(logprobs))), rel=1e-5)
    with pytest.raises(UserError, match="'mixed': not among the choices"):
        with_prior(model, Calibration(by="calibrated", prior=prior), ["mixed"])
    assert with_prior(model, Calibration(), ["mixed"]) == Calibration()
