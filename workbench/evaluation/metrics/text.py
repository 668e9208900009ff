"""Overlap with the reference, or with the references of an answer that has several: BLEU, chrF, ROUGE-L."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.metrics.script import Words, is_foreign, words_of
from workbench.evaluation.prediction import Prediction


def _streams(references: Iterable[Sequence[str]]) -> list[list[Any]]:
    """References as sacrebleu takes them: the first of every answer, the second of every answer, and so on.

    An answer that has fewer than another has None there, which sacrebleu leaves out.
    """
    return [list(stream) for stream in zip_longest(*references)]


def _signature(metric: BLEU | CHRF, answers: Sequence[Prediction]) -> str:
    """What sacrebleu prints, with the number of references; it knows its signature only after a score."""
    counts = sorted({len(answer.all_references) for answer in answers if not answer.choices}) or [1]
    metric.corpus_score(["a"] * len(counts), _streams(["a"] * count for count in counts))
    return str(metric.get_signature())


@cache
def _bleu(words: Words) -> BLEU:
    return BLEU(tokenize="13a" if words == "words" else words)


def bleu_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Matched and total n-grams for n = 1 to 4, and both lengths: (answers, 10).

    Of several references each n-gram counts as often as in the one that has it most often, and the length is that of
    the one nearest in length.
    """
    rows = []
    for answer in answers:
        score = _bleu(words_of(answer.reference)).corpus_score([answer.prediction], _streams([answer.all_references]))
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
    """What sacrebleu prints for the scripts of these answers."""
    by_words: dict[Words, list[Prediction]] = {}
    for answer in answers:
        by_words.setdefault(words_of(answer.reference), []).append(answer)
    signatures = (_signature(_bleu(words), by_words[words]) for words in sorted(by_words))
    return "; ".join(dict.fromkeys(signatures))


CHRF_METRIC = CHRF()


def chrf_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Character n-grams of the hypothesis, of the reference and of both, for n = 1 to 6: (answers, 18).

    Of several references the one with the best score of its own is taken.
    """
    if not answers:
        return np.empty((0, 18))
    references = _streams(answer.all_references for answer in answers)
    return np.array(CHRF_METRIC._extract_corpus_statistics([a.prediction for a in answers], references), dtype=float)


def chrf_score(sums: np.ndarray) -> float:
    """chrF2 (Popovic 2015) as sacrebleu computes it."""
    return float(CHRF_METRIC._compute_score_from_stats([int(value) for value in sums]).score)


def chrf_signature(answers: Sequence[Prediction]) -> str:
    """What sacrebleu prints."""
    return _signature(CHRF_METRIC, answers)


class _Characters(Tokenizer):
    """Characters one by one, in Chinese texts other words as they are: rouge-score's own tokenizer drops them."""

    def __init__(self, words: Words) -> None:
        self.split = TokenizerZh() if words == "zh" else TokenizerChar()

    def tokenize(self, text: str) -> list[str]:
        return self.split(text.lower()).split()


class _Words(Tokenizer):
    """Words of any script that puts spaces between them."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


@cache
def _rouge(words: Words, foreign: bool) -> Any:
    tokenizer = _Characters(words) if words != "words" else _Words() if foreign else None
    return RougeScorer(["rougeL"], tokenizer=tokenizer)


def rouge_l_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """F1 of the longest common subsequence with the reference where it is greatest, and 1: (answers, 2)."""
    rows = []
    for answer in answers:
        scorer = _rouge(words_of(answer.reference), is_foreign(answer.reference))
        rows.append((scorer.score_multi(answer.all_references, answer.prediction)["rougeL"].fmeasure, 1.0))
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
