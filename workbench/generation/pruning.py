"""Which choices must be read: those that can still be the best, or change how likely the best is.

The likelihood of what was read of a choice is an upper bound of its own: more tokens only lower it. And all choices
that begin alike are together no likelier than their beginning. So most of many choices are known to be out of the
question after their first token, which the prompt alone tells (branch and bound, Land and Doig 1960).

Under the constraint to write one of the choices, only tokens that go on with one of them count at each node: where
there is only one, its probability is 1, and nothing is read. Of dozens of labels most differ in their first token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.generation.tree import ROOT, ChoiceTree

# Largest share of the probability that unread choices may have.
TOLERANCE = 1e-3
# Share of all probability from which a beginning is held for so likely that what can only follow it is read at once.
LIKELY = 0.02
# Score of what a model holds for impossible.
LOWEST = -1e9

# Texts of choices and the tokens of each -> slopes and offsets: a choice's score is slope * log-likelihood - offset.
Scores = Callable[[Sequence[str], np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Leave choices unread that are not the best, and together have no more than a small share of the probability.

    Attributes:
        scores: by which choices are compared; probabilities are their softmax.
        kept: of each conversation, the choices that are read in any case, such as the right one.
        tolerance: largest share of the probability that unread choices may have: the probability of each choice that
            was read is exact up to this share of it.
        constrained: compare them by how likely each is under the constraint, see `ChoiceLikelihoods.constrained`.
    """

    scores: Scores
    kept: Sequence[Sequence[str]]
    tolerance: float = TOLERANCE
    constrained: bool = False


@dataclass(frozen=True, kw_only=True)
class Needed:
    """What must be known of the choices behind a prompt; the scores of `Pruning`, in the order of the choices.

    Attributes:
        kept: numbers of choices that are read in any case.
    """

    slopes: np.ndarray
    offsets: np.ndarray
    kept: Sequence[int]
    tolerance: float


class Reading:
    """What is known of the choices behind one prompt.

    Args:
        tree: of the choices.
        needed: None wants to know all.
        constrained: likelihoods are those under the constraint to write one of the choices, see
            `ChoiceLikelihoods.constrained`.

    Attributes:
        read: nodes that were read, (nodes,).

    Raises:
        ValueError: they are to be those under a constraint, and a choice begins another.
    """

    def __init__(self, tree: ChoiceTree, needed: Needed | None = None, constrained: bool = False) -> None:
        if constrained and not tree.prefix_free:
            raise ValueError("a choice begins another: read them with the end of the turn")
        self.tree = tree
        self.needed = needed
        self.constrained = constrained
        self._logs = np.full(len(tree.tokens), np.nan)
        self._logs[ROOT] = 0.0
        self.read = np.zeros(len(tree.tokens), dtype=bool)
        # Nodes at which nothing is left to learn: they were read, or only one token can follow.
        self._learnt = np.array([constrained and len(below) == 1 for below in tree.children])
        # Where each choice's known beginning ends, by its place in the path.
        self._known = np.zeros(len(tree.paths), dtype=int)

    @property
    def logprobs(self) -> np.ndarray:
        """Log-likelihood of what is known of each choice, (choices,): of those in `bounds` an upper bound."""
        found: np.ndarray = self._logs[self._ends]
        return found

    @property
    def constrained_logprobs(self) -> np.ndarray | None:
        """The same under the constraint to write one of the choices; None where that isn't known of all."""
        if self.constrained:
            return self.logprobs
        if not self.tree.prefix_free or np.isnan(self._logs).any():
            return None
        shares = np.zeros(len(self._logs))
        for node in (ROOT, *self.tree.inner):  # each behind its ancestors
            children = self.tree.children[node]
            shares[children] = shares[node] + self._logs[children] - _log_sum(self._logs[children])
        found: np.ndarray = shares[self._ends]
        return found

    @property
    def bounds(self) -> frozenset[int]:
        """Numbers of the choices that were not read to their end."""
        return frozenset(np.flatnonzero(self._open).tolist())

    @property
    def _ends(self) -> np.ndarray:
        """The node at which what is known of each choice ends."""
        found: np.ndarray = self.tree.padded_paths[np.arange(len(self._known)), self._known]
        return found

    @property
    def _open(self) -> np.ndarray:
        found: np.ndarray = self._known < self.tree.lengths
        return found

    def take(self, nodes: Sequence[int], logprobs: np.ndarray) -> None:
        """Learn what was read at `nodes`, each behind its ancestors.

        Args:
            logprobs: of the tokens of all their children, one node after the other, given what is before them.
        """
        start = 0
        for node in nodes:
            children = self.tree.children[node]
            found = logprobs[start : start + len(children)]
            self._logs[children] = self._logs[node] + (found - _log_sum(found) if self.constrained else found)
            start += len(children)
        self.read[list(nodes)] = True
        self._learnt[list(nodes)] = True
        while (further := self._open & self._learnt[ends := self._ends]).any():
            numbers = np.flatnonzero(further)
            nodes_behind = self.tree.padded_paths[numbers, self._known[numbers] + 1]
            certain = np.isnan(self._logs[nodes_behind])
            self._logs[nodes_behind[certain]] = self._logs[ends[numbers][certain]]
            self._known += further

    def wanted(self) -> list[int]:
        """Nodes that are to be read next, each behind its ancestors, if it has unread ones; none if enough is known."""
        if self.needed is None:
            return [node for node in self.tree.inner if not self.read[node]]
        is_open = self._open
        if not is_open.any():
            return []
        ends = self._ends
        scores = np.maximum(self.needed.slopes * self._logs[ends] - self.needed.offsets, LOWEST)
        beginnings, owners = np.unique(ends[is_open], return_inverse=True)
        highest, bounds = self._bounds(scores[is_open], owners, len(beginnings))
        known = scores[~is_open]
        shares = np.exp(bounds - _log_sum(np.concatenate([known, bounds])))
        order = np.argsort(-shares)
        left = np.cumsum(shares[order][::-1])[::-1]  # what would be unread without this one and those behind it
        taken = order[left > self.needed.tolerance]
        paths: list[Sequence[int]] = [self._rest(choice) for choice in self.needed.kept if is_open[choice]]
        if not len(taken) and not paths:  # what is unread is little, but may be more than the best that was read
            taken = np.flatnonzero(highest >= known.max())
        firsts = [(int(beginnings[one]), bool(shares[one] > LIKELY)) for one in taken]
        paths += [self._straight(node) if likely else [node] for node, likely in firsts]
        wanted = {node for path in paths for node in path}
        if self.constrained:  # what leads to them may not have been read
            wanted |= {above for node in wanted for above in self.tree.path_to(node) if not self.read[above]}
        return sorted(wanted)

    def _bounds(self, scores: np.ndarray, owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds behind each of `count` beginnings: of a choice's score, and of the sum of exponentials, its log.

        Likelihoods p with slope a and offset b, whose sum is at most P: with q = p / P, the sum of
        exp(a log p - b) is that of w q^a, w being its value for p = P. No a is below the smallest, m. If m is at least
        1, it is largest where the largest w has all, else by Hölder's inequality
        (sum of w^(1 / (1 - m)))^(1 - m). Where sums are not bounded so, m = 0 adds all w.

        Args:
            scores: of the choices as if they ended here, (open choices,).
            owners: which beginning each of them has, (open choices,).
        """
        assert self.needed is not None
        highest = np.full(count, -np.inf)
        np.maximum.at(highest, owners, scores)
        power = 1 - float(self.needed.slopes.min()) if self.tree.prefix_free else 1.0
        if power <= 0:
            return highest, highest
        sums = np.bincount(owners, np.exp((scores - highest[owners]) / power), count)
        return highest, highest + power * np.log(sums)

    def _rest(self, choice: int) -> list[int]:
        """All of a choice that is to be read."""
        path: list[int] = self.tree.paths[choice][self._known[choice] : -1].tolist()
        while path and self._learnt[path[-1]]:
            path.pop()
        return path

    def _straight(self, node: int) -> list[int]:
        """`node` and what follows as long as only one token can."""
        path = []
        while len(self.tree.children[node]):
            path.append(node)
            if len(self.tree.children[node]) > 1:
                break
            node = int(self.tree.children[node][0])
        return path


def _log_sum(values: np.ndarray) -> float:
    highest = float(values.max())
    return highest + float(np.log(np.exp(values - highest).sum()))
