"""What the answers of a split are: how often each label, how often the same text, how many are blank."""

from collections import Counter
from collections.abc import Iterable

from workbench.data.examples import Example
from workbench.results import SplitContents

# More different right choices than these are not counted by name.
LABELS = 50
ANSWER_SHOWN = 80


def _are_classes(counts: Counter[str]) -> bool:
    """Whether these are labels that stand for many, and not the items of a shop."""
    return len(counts) <= LABELS and counts.total() >= 2 * len(counts)


def contents_of(examples: Iterable[Example]) -> SplitContents:
    """Look at the answers of a split, each once."""
    labels: dict[str, Counter[str]] = {}
    answers, texts, blank = Counter[int](), dict[int, str](), 0
    for example in examples:
        if example.choices:
            right = [example.completion] if example.labels is None else example.labels
            labels.setdefault(example.task, Counter()).update(right)
            continue
        answers[hash(example.completion)] += 1
        blank += not any(letter.isalnum() for letter in example.completion)
        if answers[hash(example.completion)] == 2:
            texts[hash(example.completion)] = example.completion[:ANSWER_SHOWN]
    commonest = max(texts, key=lambda one: (answers[one], texts[one]), default=None)
    return SplitContents(
        labels={task: dict(counts.most_common()) for task, counts in labels.items() if _are_classes(counts)},
        written=answers.total(),
        distinct=len(answers),
        blank=blank,
        commonest="" if commonest is None else texts[commonest],
        commonest_count=0 if commonest is None else answers[commonest],
    )
