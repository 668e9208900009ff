"""What stands in the table beside language models: old, cheap, and sometimes enough.

A baseline is a function of training, validation and asked examples, all of one task, which says how likely each choice
of each asked example is. A recipe names its own: `baselines={"tfidf": tfidf}`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workbench.data import Example
from workbench.errors import MethodError

# A Chinese character; a word of any other writing, with its apostrophe; marks of excitement.
TOKEN = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:['’]\w+)?|[!?！？]+"
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What a baseline makes of examples.

    Attributes:
        log_probabilities: of each asked example, those of its choices.
        parameters: numbers that were fitted.
    """

    log_probabilities: Sequence[Mapping[str, float]]
    parameters: int = 0


Baseline = Callable[[Sequence[Example], Sequence[Example], Sequence[Example]], Guesses]


def tfidf(train: Sequence[Example], validation: Sequence[Example], asked: Sequence[Example]) -> Guesses:
    """Logistic regression on TF-IDF of words (Chinese: characters) and pairs of them.

    The strength of its regularization is the one of seven with the least loss on the validation split.

    Raises:
        MethodError: the training examples show one class only.
    """
    if len({example.completion for example in train}) < 2:
        raise MethodError("tfidf learns to tell classes apart, and the training examples show one only")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    features = TfidfVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), sublinear_tf=True)
    known = features.fit_transform(example.question for example in train)
    checked = features.transform([example.question for example in validation] or [""])
    models = [
        LogisticRegression(C=strength, max_iter=2000).fit(known, [example.completion for example in train])
        for strength in STRENGTHS
    ]
    # A class that training didn't show is as good as impossible; here it only must not stop the choice.
    seen = [number for number, example in enumerate(validation) if example.completion in models[0].classes_]
    right = [validation[number].completion for number in seen]
    best = models[STRENGTHS.index(1.0)]
    if right:
        best = min(models, key=lambda m: log_loss(right, m.predict_proba(checked[seen]), labels=m.classes_))
    logs = best.predict_log_proba(features.transform(example.question for example in asked))
    unseen = float(logs.min()) - 1
    return Guesses(
        log_probabilities=[
            dict.fromkeys(example.choices, unseen) | dict(zip(map(str, best.classes_), map(float, row), strict=True))
            for example, row in zip(asked, logs, strict=True)
        ],
        parameters=int(best.coef_.size + best.intercept_.size),
    )
