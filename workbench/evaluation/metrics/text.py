"""Overlap with the reference: BLEU, chrF, ROUGE-L."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction


@cache
def _bleu(language: str) -> BLEU:
    return BLEU(tokenize="zh" if language == "zh" else "13a")


def bleu_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Matched and total n-grams for n = 1 to 4, and both lengths: (answers, 10)."""
    rows = []
    for answer in answers:
        score = _bleu(answer.language).corpus_score([answer.prediction], [[answer.reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=float).reshape(-1, 10)


def bleu_score(sums: np.ndarray) -> float:
    """Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018, arXiv:1804.08771)."""
    counts = [int(value) for value in sums]
    return float(
        BLEU.compute_bleu(
            correct=counts[:4], total=counts[4:8], sys_len=counts[8], ref_len=counts[9], smooth_method="exp"
        ).score
    )


def bleu_signature(answers: Sequence[Prediction]) -> str:
    """What sacrebleu prints for these languages."""
    signatures = []
    for language in sorted({answer.language for answer in answers}):
        metric = _bleu(language)
        metric.corpus_score(["a"], [["a"]])  # sacrebleu knows its signature only after a score
        signatures.append(str(metric.get_signature()))
    return "; ".join(dict.fromkeys(signatures))


CHRF_METRIC = CHRF()


def chrf_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Character n-grams of the hypothesis, of the reference and of both, for n = 1 to 6: (answers, 18)."""
    predictions, references = [a.prediction for a in answers], [a.reference for a in answers]
    return np.array(CHRF_METRIC._extract_corpus_statistics(predictions, [references]), dtype=float)


def chrf_score(sums: np.ndarray) -> float:
    """chrF2 (Popovic 2015) as sacrebleu computes it."""
    return float(CHRF_METRIC._compute_score_from_stats([int(value) for value in sums]).score)


def chrf_signature(answers: Sequence[Prediction]) -> str:
    """What sacrebleu prints."""
    CHRF_METRIC.corpus_score(["a"], [["a"]])
    return str(CHRF_METRIC.get_signature())


class _Characters(Tokenizer):
    """Chinese characters one by one, other words as they are: rouge-score's own tokenizer drops Chinese."""

    def __init__(self) -> None:
        self.split = TokenizerZh()

    def tokenize(self, text: str) -> list[str]:
        return self.split(text.lower()).split()


@cache
def _rouge(language: str) -> Any:
    return RougeScorer(["rougeL"], tokenizer=_Characters() if language == "zh" else None)


def rouge_l_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """F1 of the longest common subsequence, and 1: (answers, 2)."""
    rows = [(_rouge(a.language).score(a.reference, a.prediction)["rougeL"].fmeasure, 1.0) for a in answers]
    return np.array(rows).reshape(-1, 2)


def rouge_l_score(sums: np.ndarray) -> float:
    """Mean ROUGE-L F1 (Lin 2004), in percent."""
    return float(100 * sums[0] / sums[1])


METRICS = (
    Metric(
        name="bleu",
        title="BLEU",
        summary="n-grams shared with the reference, by sacrebleu, over the whole set.",
        statistics=bleu_statistics,
        score=bleu_score,
        higher_is_better=True,
        worst=0,
        best=100,
        signature=bleu_signature,
    ),
    Metric(
        name="chrf",
        title="chrF",
        summary="character n-grams shared with the reference, by sacrebleu, over the whole set.",
        statistics=chrf_statistics,
        score=chrf_score,
        higher_is_better=True,
        worst=0,
        best=100,
        signature=chrf_signature,
    ),
    Metric(
        name="rouge_l",
        title="ROUGE-L",
        summary="longest common subsequence with the reference, F1 by rouge-score, mean over answers, in percent.",
        statistics=rouge_l_statistics,
        score=rouge_l_score,
        higher_is_better=True,
        worst=0,
        best=100,
        signature=lambda answers: "rouge-score|rougeL|fmeasure|no stemming",
    ),
)
