"""Is a window's share of negative texts more than its history explains?

Called negative here are the texts with the label that is counted, whichever a recipe's `monitoring` names.

A window with k negative texts of n is held against a history with K of N by Fisher's exact test: if nothing has
changed, which k of the K + k negative texts fell into the window is a draw without replacement, whatever the topic's
own share of negative texts is (Fisher 1935; conditional tests of two binomials, Lehmann and Romano, section 4.5). So
the chance that a quiet topic raises an alert in a window is at most `false_alarms`, if texts come one by one.

Real texts come in clusters: a story is told three times. By what factor φ the history's windows vary more than
binomial counts do is estimated, at the upper end of its uncertainty, and counts are divided by it (quasi-likelihood,
McCullagh and Nelder 1989, section 4.5). That keeps the rate for clusters of one to three texts and histories of eight
windows or more (simulated, see the tests), and is below it where texts come one by one.

A weak surge shows over several windows only. So the last one, two and four windows since the last alert are tested
together, each at a third of the level (Bonferroni); windows are no part of the history before that, lest a surge that
begins slowly hide itself in it. The windows of an alert are none either, unless they become a topic's new level, and
none is told of twice.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Windows from which the spread of the history can be judged, and texts that it must have before anything is.
FEWEST_WINDOWS = 8
FEWEST_TEXTS = 30
# Windows of a surge after which its share is the topic's new level. As many quiet ones in a row as a span has end it.
SETTLED = 6
# How many of the latest windows are tested together; the longest span says what is not yet history.
SPANS = (1, 2, 4)
# Chance that the history's spread is larger than what is reckoned with.
UNDERSTATED = 0.2


@dataclass(frozen=True)
class Window:
    """A stretch of time of one topic that is over, with at least one text.

    Attributes:
        start: seconds since 1970.
        texts, negative: how many there were, and how many of them have the label that is counted.
        surge: whether it was beyond what history explains.
    """

    start: float
    texts: int
    negative: int
    surge: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the test said of a window.

    Attributes:
        window: judged.
        p_value: for all spans together; None while there was too little history.
        span: the windows that told most, this one the last.
        before: the history they were held against.
        new_level: the surge lasted so long that its windows are the history from now on.
    """

    window: Window
    p_value: float | None = None
    span: Sequence[Window] = ()
    before: Sequence[Window] = ()
    new_level: bool = False


@dataclass
class Surges:
    """The windows of one topic.

    Attributes:
        false_alarms: chance that a quiet topic raises an alert in a window.
        history: how many quiet windows a new one is held against, at most.
        quiet: these.
        latest: windows since the last alert that are not history yet.
        surge: windows of the surge that is going on, from the first window of its first alert to its last alert.
    """

    false_alarms: float
    history: int
    quiet: deque[Window] = field(default_factory=deque)
    latest: deque[Window] = field(default_factory=deque)
    surge: list[Window] = field(default_factory=list)

    def close(self, start: float, texts: int, negative: int) -> Judgement:
        """Judge a window that is over, and remember it."""
        judged = self._judge(Window(start, texts, negative))
        if not judged.window.surge:
            self.latest.append(judged.window)
            if len(self.latest) >= max(SPANS):
                self._remember([self.latest.popleft()])
                self.surge = []
            return judged
        # What is beyond the history does not belong into it, unless it stays.
        if not self.surge:
            while len(self.latest) >= len(judged.span):  # quiet ones before it began
                self._remember([self.latest.popleft()])
        self.surge += [*self.latest, judged.window]
        self.latest.clear()
        if len(self.surge) < SETTLED:
            return judged
        self.quiet.clear()
        self._remember(self.surge)
        self.surge = []
        return Judgement(judged.window, judged.p_value, judged.span, judged.before, new_level=True)

    def _judge(self, window: Window) -> Judgement:
        before = list(self.quiet)
        if len(before) < FEWEST_WINDOWS or sum(w.texts for w in before) < FEWEST_TEXTS:
            return Judgement(window)
        recent = [*self.latest, window]
        spans = [recent[-count:] for count in SPANS if count <= len(recent)]
        history = [(w.texts, w.negative) for w in before]
        p_values = [surge_p_value(sum(w.texts for w in span), sum(w.negative for w in span), history) for span in spans]
        p_value = min(1.0, len(SPANS) * min(p_values))
        window = Window(window.start, window.texts, window.negative, surge=p_value <= self.false_alarms)
        most = spans[p_values.index(min(p_values))]
        return Judgement(window, p_value, [*most[:-1], window], before)

    def _remember(self, windows: Sequence[Window]) -> None:
        self.quiet.extend(windows)
        while len(self.quiet) > self.history:
            self.quiet.popleft()

    def state(self) -> dict[str, Any]:
        """For JSON."""
        parts = {"quiet": self.quiet, "latest": self.latest, "surge": self.surge}
        return {name: [asdict(window) for window in windows] for name, windows in parts.items()}

    @classmethod
    def restored(cls, state: dict[str, Any], false_alarms: float, history: int) -> "Surges":
        """From `state()`."""
        return cls(
            false_alarms=false_alarms,
            history=history,
            quiet=deque(Window(**w) for w in state["quiet"]),
            latest=deque(Window(**w) for w in state["latest"]),
            surge=[Window(**w) for w in state["surge"]],
        )


def surge_p_value(texts: int, negative: int, history: Sequence[tuple[int, int]]) -> float:
    """Chance of at least so many negative texts in a window, if nothing has changed.

    Args:
        texts, negative: of the window.
        history: the same of the windows before it.
    """
    from scipy.stats import hypergeom

    past, past_negative = (sum(column) for column in zip(*history, strict=True))
    spread = overdispersion(history)
    texts, negative, past, past_negative = (round(count / spread) for count in (texts, negative, past, past_negative))
    return float(hypergeom.sf(negative - 1, past + texts, past_negative + negative, texts))


def overdispersion(history: Sequence[tuple[int, int]]) -> float:
    """By what factor windows vary more than binomial counts, at most: the upper 80 % limit of φ, and at least 1."""
    from scipy.stats import chi2

    past, past_negative = (sum(column) for column in zip(*history, strict=True))
    share = past_negative / past
    if not 0 < share < 1:
        return 1.0
    pearson = sum((k - n * share) ** 2 / (n * share * (1 - share)) for n, k in history)
    return max(1.0, float(pearson / chi2.ppf(UNDERSTATED, len(history) - 1)))
