"""Metrics: equal to the standard tools, with intervals that hold their value."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from workbench.errors import UserError
from workbench.evaluation import Metric, Prediction, find_metric, find_metrics, known_metrics, score_all
from workbench.evaluation.evaluate_metric import EvaluateMetric
from workbench.evaluation.intervals import by_source
from workbench.evaluation.metrics.figures import figures
from workbench.evaluation.metrics.script import words_of

ENGLISH = [
    ("The fee is €15, because 0.5% of €3,000 is €15.", "It costs €15: 0.5% of €3,000."),
    ("Freeze the card in the app.", "Freeze the card in the app under Cards, then Freeze."),
    ("", "An empty answer counts too."),
]
CHINESE = [
    ("手续费是15欧元。", "手续费为15欧元，4个工作日到账。"),
    ("请在App里冻结银行卡。", "请立即在App的“卡片”里冻结银行卡。"),
]


def answers(pairs: Sequence[tuple[str, str]], language: str = "en", split: str = "test") -> list[Prediction]:
    return [
        Prediction(
            id=f"{language}-{n}",
            split=split,
            prompt="",
            reference=reference,
            prediction=prediction,
            nll=2.0 * (n + 1),
            tokens=4,
            groups={"language": language},
        )
        for n, (prediction, reference) in enumerate(pairs)
    ]


@pytest.mark.parametrize(("pairs", "language", "tokenizer"), [(ENGLISH, "en", "13a"), (CHINESE, "zh", "zh")])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_bleu_and_chrf_are_what_the_sacrebleu_command_prints(
    pairs: list[tuple[str, str]], language: str, tokenizer: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "hyp").write_text("".join(p + "\n" for p, _ in pairs), encoding="utf-8")
    (tmp_path / "ref").write_text("".join(r + "\n" for _, r in pairs), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(tmp_path / "ref"),
        "-i",
        str(tmp_path / "hyp"),
        "-m",
        name,
        "-w",
        "4",
    ]
    command += ["--tokenize", tokenizer] if name == "bleu" else []
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    metric = find_metric(name)
    assert round(metric.value(answers(pairs, language)), 4) == printed["score"]
    assert metric.signature(answers(pairs, language)) == printed["signature"]


# Prediction and references, of different numbers.
SEVERAL = [
    ("It costs €15 for a transfer.", ("The fee is €15.", "It costs €15.", "A transfer costs you €15 in all, always.")),
    ("Freeze the card in the app.", ("Freeze it under Cards in our app, then call us.", "Freeze the card in the app.")),
    ("By phone, or by post.", ("By post or by phone.",)),
    ("the the the the", ("the cat", "the the mat")),
]


def with_several(given: Sequence[tuple[str, Sequence[str]]]) -> list[Prediction]:
    first = answers([(prediction, references[0]) for prediction, references in given])
    return [replace(a, references=tuple(texts[1:])) for a, (_, texts) in zip(first, given, strict=True)]


@pytest.mark.parametrize(("name", "theirs"), [("bleu", BLEU()), ("chrf", CHRF())])
@pytest.mark.parametrize("given", [SEVERAL, SEVERAL[:1], SEVERAL[2:3]], ids=["of different numbers", "three", "one"])
def test_several_references_are_scored_as_sacrebleu_does(name: str, theirs: Any, given: list[Any]) -> None:
    predictions = [prediction for prediction, _ in given]
    streams = list(zip_longest(*(references for _, references in given)))
    metric, found = find_metric(name), with_several(given)
    assert metric.value(found) == theirs.corpus_score(predictions, streams).score
    assert metric.signature(found) == str(theirs.get_signature())


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge_l"])
def test_a_further_reference_counts_and_figures_stay_with_the_first(name: str) -> None:
    found = with_several(SEVERAL)
    one = [replace(answer, references=()) for answer in found]
    assert find_metric(name).value(found) > find_metric(name).value(one)
    assert find_metric("figures").value(found) == find_metric("figures").value(one)


def test_rouge_l_takes_the_best_reference() -> None:
    scorer = RougeScorer(["rougeL"])
    best = [scorer.score_multi(list(references), said)["rougeL"].fmeasure for said, references in SEVERAL]
    assert find_metric("rouge_l").value(with_several(SEVERAL)) == pytest.approx(100 * np.mean(best))
    assert find_metric("rouge_l").value(with_several(SEVERAL[1:2])) == 100


def test_rouge_l_reads_chinese() -> None:
    metric = find_metric("rouge_l")
    assert metric.value(answers([("手续费", "手续费")], "zh")) == 100
    assert 0 < metric.value(answers(CHINESE, "zh")) < 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("€1,250.50 and 2 %", {(1250.5, "euro"): 1, (2.0, "percent"): 1}),
        ("0.5% of €3,000 is €15", {(0.5, "percent"): 1, (3000.0, "euro"): 1, (15.0, "euro"): 1}),
        ("within 5 business days, before 15:00", {(5.0, "business day"): 1, ("15:00", "time"): 1}),
        ("5 days is not 5 business days", {(5.0, "day"): 1, (5.0, "business day"): 1}),
        ("15欧元，4个工作日，3个月", {(15.0, "euro"): 1, (4.0, "business day"): 1, (3.0, "month"): 1}),
    ],
)
def test_figures_have_value_and_unit(text: str, expected: dict) -> None:
    assert dict(figures(text)) == expected


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("1.234,50 €", 1234.5, "euro"), ("€1,234.50", 1234.5, "euro"), ("1,5 %", 1.5, "percent"),
        ("1.5%", 1.5, "percent"),
        ("CHF 1'234.50", 1234.5, "franc"), ("1\u202f234,50 EUR", 1234.5, "euro"), ("1.800 EUR", 1800, "euro"),
        ("1.800 days", 1.8, "day"), ("1.234.567", 1234567, ""), ("$5", 5, "dollar"), ("5 USD", 5, "dollar"),
        ("£3.20", 3.2, "pound"), ("300元", 300, "yuan"), ("5 daylight", 5, ""), ("7 per cent", 7, "percent"),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written_anywhere(text: str, number: float, unit: str) -> None:
    assert dict(figures(text)) == {(number, unit): 1}


def test_answers_without_a_figure_to_name_are_not_scored_by_figures() -> None:
    metric = find_metric("figures")
    assert [metric.applies(a) for a in answers([("€5", "It is free."), ("", "€5")])] == [False, True]
    assert "figures" not in score_all([metric], answers([("€5", "It is free.")]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It costs €5.", "words"), ("手续费为15欧元，4个工作日到账。", "zh"), ("请在App里冻结银行卡。", "zh"),
        ("手数料は15ユーロです。", "char"), ("ค่าธรรมเนียม 15 ยูโร", "char"),
        ("해외 송금 수수료는 한 번에 15유로입니다.", "words"),
        ("Комиссия за перевод составляет 15 евро.", "words"),
        ("The word 银行 means bank in Chinese.", "words"), ("", "words"), ("15 €", "words"),
    ],
)  # fmt: skip
def test_words_are_told_by_the_script_and_not_by_a_groups_name(text: str, words: str) -> None:
    assert words_of(text) == words
    (answer,) = answers([(text, text)], language="cn")
    for name in ("bleu", "rouge_l") if len(text) > 8 else ():
        assert find_metric(name).value([answer]) == pytest.approx(100), name
        assert find_metric(name).value([replace(answer, prediction=text[: len(text) // 2])]) < 90, name
    if text:
        expected = {"words": "13a"}.get(words, words)
        assert f"tok:{expected}|" in find_metric("bleu").signature([answer])


def test_right_figures_are_counted_with_multiplicity() -> None:
    metric = find_metric("figures")
    assert metric.value(answers([("€15 and €15", "€15"), ("4 days", "4 business days and €8")])) == pytest.approx(
        100 / 3
    )


def test_perplexity_is_of_tokens_not_of_answers() -> None:
    given = answers(ENGLISH)
    assert find_metric("perplexity").value(given) == pytest.approx(np.exp((2 + 4 + 6) / 12))


def test_each_is_an_evaluate_metric() -> None:
    predictions, references = zip(*ENGLISH, strict=True)
    for name in ("bleu", "chrf", "rouge_l", "figures"):
        found = EvaluateMetric(find_metric(name)).compute(predictions=list(predictions), references=list(references))
        assert found == {name: pytest.approx(find_metric(name).value(answers(ENGLISH)))}


def test_scores_by_split_and_language_with_intervals() -> None:
    given = answers(ENGLISH) + answers(CHINESE, "zh", "test_unseen")
    scores = score_all([find_metric(name) for name in known_metrics()], given)
    assert {"bleu", "bleu[test]", "bleu[test_unseen]", "bleu[language=en]", "bleu[language=zh]"} <= set(scores)
    for name, score in scores.items():
        assert score.low <= score.value <= score.high, name
    assert scores["bleu[test]"].value == find_metric("bleu").value(answers(ENGLISH))
    assert scores["rouge_l[test]"].low < scores["rouge_l[test]"].high


def test_scores_are_broken_down_by_every_group_or_by_those_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    given = [
        replace(answer, split="zh" if number else "en", groups={"topic": f"t{number % 2}", "firm": f"firm {number}"})
        for number, answer in enumerate(answers(ENGLISH) * 30)
    ]
    scores = score_all([find_metric("bleu")], given)
    assert set(scores) == {"bleu", "bleu[en]", "bleu[zh]", "bleu[topic=t0]", "bleu[topic=t1]"}
    assert "group 'firm' has 90 values" in caplog.text
    asked = score_all([find_metric("bleu")], given, groups=["firm"])
    assert len(asked) == 3 + 90
    assert "bleu[firm=firm 7]" in asked
    assert set(score_all([find_metric("bleu")], given, groups=[])) == {"bleu", "bleu[en]", "bleu[zh]"}


def test_the_turns_of_a_conversation_are_drawn_together() -> None:
    summed = by_source(np.array([[1.0], [2.0], [4.0]]), ["a", "b", "a"])
    assert summed.tolist() == [[5.0], [2.0]]


def test_a_metric_carries_direction_and_range() -> None:
    for metric in known_metrics().values():
        assert (metric.best > metric.worst) == metric.higher_is_better


OWN = Metric(
    name="length",
    title="characters",
    summary="mean length of the answers, in characters.",
    statistics=lambda answers: np.array([(len(answer.prediction), 1.0) for answer in answers]).reshape(-1, 2),
    score=lambda total: float(total[0] / total[1]),
    higher_is_better=False,
    worst=np.inf,
    best=0,
    signature=lambda answers: "code points",
)


def test_a_recipe_may_bring_metrics_of_its_own() -> None:
    found = find_metrics(("bleu", OWN))
    assert found == [find_metric("bleu"), OWN]
    assert find_metric("length", ("bleu", OWN)) is OWN
    assert score_all(found, answers(ENGLISH))["length[test]"].value == pytest.approx(
        np.mean([len(prediction) for prediction, _ in ENGLISH])
    )
    with pytest.raises(UserError, match="unknown metric 'length'"):
        find_metric("length", ("bleu",))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ((OWN, replace(OWN, title="another")), "several are called length"),
        (("bleu", len), "<built-in function len> is neither a metric's name nor"),
        (("blue", OWN), "unknown metric 'blue'; did you mean bleu"),
    ],
)
def test_metrics_that_cannot_be_told_apart_or_called_are_refused(metrics: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_metrics(metrics)


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean bleu"):
        find_metric("blue")
