"""Choices as a tree of tokens: what several of them begin with stands there once."""

from collections.abc import Iterator, Sequence

import numpy as np

ROOT = 0


class ChoiceTree:
    """The tokens of some choices, each node a token behind those of its ancestors; the root is the prompt itself.

    Nodes are numbered depth first: behind a node come all nodes below it, and then others. So a node lies below
    another one, or is it, if its number is at least the other's and smaller than the other's `ends`.

    Attributes:
        tokens: of each node, (nodes,); the root has none.
        depths: how many tokens each node is behind the prompt, (nodes,).
        ends: of each node, the number behind the last one below it, (nodes,).
        children: of each node, the numbers of the nodes right below it.
        paths: of each choice, the numbers of its nodes, the root first.
        padded_paths: the same with zeros behind, (choices, longest).
        lengths: tokens of each choice, (choices,).
        prefix_free: whether no choice begins another, nor stands there twice: likelihoods below a node then sum to
            no more than the node's own.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        """Build the tree.

        Args:
            choices: token ids; none is empty.
        """
        order = sorted(range(len(choices)), key=lambda number: tuple(choices[number]))
        tokens, depths, parents = [-1], [0], [-1]
        paths: list[list[int]] = [[] for _ in choices]
        self.prefix_free = True
        before: list[int] = [ROOT]
        for number in order:
            ids = choices[number]
            shared = 1
            while shared < len(before) and shared <= len(ids) and tokens[before[shared]] == ids[shared - 1]:
                shared += 1
            # Sorted, what a choice begins follows it at once.
            self.prefix_free &= shared < len(before) or len(before) == 1
            path = before[:shared]
            for depth in range(shared, len(ids) + 1):
                parents.append(path[-1])
                path.append(len(tokens))
                tokens.append(ids[depth - 1])
                depths.append(depth)
            paths[number] = before = path
        self.tokens, self.depths = np.array(tokens), np.array(depths)
        self.paths = [np.array(path) for path in paths]
        ends = list(range(1, len(tokens) + 1))
        children: list[list[int]] = [[] for _ in tokens]
        for node in range(len(tokens) - 1, ROOT, -1):
            ends[parents[node]] = max(ends[parents[node]], ends[node])
            children[parents[node]].append(node)
        self.ends = np.array(ends)
        self.children = [np.array(below[::-1], dtype=int) for below in children]
        self._parents = parents
        self.lengths = np.array([len(path) - 1 for path in paths])
        self.padded_paths = np.zeros((len(paths), int(self.lengths.max()) + 1), dtype=int)
        for number, path in enumerate(paths):
            self.padded_paths[number, : len(path)] = path

    @property
    def inner(self) -> list[int]:
        """Nodes that something is behind, but for the root: those that are read for all likelihoods."""
        return [node for node, below in enumerate(self.children) if len(below) and node != ROOT]

    def path_to(self, node: int) -> list[int]:
        """The nodes from right below the root to `node`."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self._parents[node]
        return path[::-1]

    def rows(self, width: int) -> Iterator[list[int]]:
        """All inner nodes in rows of at most so many, or of one path: each with all ancestors of its nodes in it.

        A width of 1 gives rows that are paths, none of which begins another.
        """
        row: list[int] = []
        for node in self.inner:
            if any(len(self.children[below]) for below in self.children[node]):
                continue
            path = self.path_to(node)
            held = set(row)
            new = [one for one in path if one not in held]
            if row and len(row) + len(new) > width:
                yield row
                row, new = [], path
            row = row + new
        if row:
            yield row
