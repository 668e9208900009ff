"""Training, validation and test of one file: by chance, the same for a seed, every class in the shares of the whole."""

import hashlib

import numpy as np

from workbench.errors import UserError

# Of ten groups in a row, one each goes to validation and test: 80, 10 and 10 %.
OF = 10
PLACE = {"validation": 4, "test": 9}
TRAIN = "train"


def divide(groups: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Divide examples into splits.

    Examples of one group stay together. Each class is in each split in its share of the whole, as far as it has
    examples for that; one of every class at least is trained on. The groups of a split stand in a random order, so
    that the first of them are a fair sample.

    Args:
        groups: number of each example's group, from 0, (examples,).
        labels: number of each example's class, (examples,); a group has that of its first example.
        seed: of the order.

    Returns:
        Split -> indices of its examples.

    Raises:
        UserError: there are too few.
    """
    firsts = np.unique(groups, return_index=True)[1]
    classes = in_order(labels)[firsts]
    keys = np.array([_key(seed, number) for number in range(len(firsts))], dtype=np.uint64)
    order = np.lexsort((keys, classes))
    # A group that is larger than the smallest split would be all of it.
    small = order[np.bincount(groups)[order] <= max(1, len(groups) // OF)]
    chosen = {split: list(small[place::OF]) for split, place in PLACE.items()}
    split_of = np.full(len(firsts), TRAIN, dtype=object)
    for split, some in chosen.items():
        split_of[some] = split
    trained = np.bincount(classes[split_of == TRAIN], minlength=int(classes.max()) + 1)
    for label in np.flatnonzero(trained == 0):
        split_of[np.flatnonzero(classes == label)[0]] = TRAIN
        trained[label] += 1
    for split in PLACE:
        if not (split_of == split).any():
            most = int(trained.argmax())
            if trained[most] < 2:
                raise UserError(
                    f"{len(groups)} examples are too few to divide into train, validation and test: give a file for "
                    'each, data={"train": ..., "validation": ..., "test": ...}'
                )
            split_of[np.flatnonzero((classes == most) & (split_of == TRAIN))[-1]] = split
            trained[most] -= 1
    shuffled = np.argsort(keys[groups], kind="stable")
    return {split: shuffled[split_of[groups[shuffled]] == split] for split in (TRAIN, *PLACE)}


def groups_of(*kinds: np.ndarray) -> np.ndarray:
    """Numbers of groups, from 0 in the order in which they appear: examples that share a number of any kind are one.

    Args:
        kinds: each (examples,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(kinds[0])
    here, there, nodes = [], [], count
    for kind in kinds:
        numbers = np.unique(kind, return_inverse=True)[1]
        here.append(np.arange(count))
        there.append(numbers + nodes)
        nodes += int(numbers.max(initial=-1)) + 1
    rows, columns = np.concatenate(here), np.concatenate(there)
    edges = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(nodes, nodes))
    return in_order(connected_components(edges, directed=False)[1][:count])


def in_order(numbers: np.ndarray) -> np.ndarray:
    """The same with other numbers, from 0 in the order in which they appear: those of `hash` differ in each process."""
    _, firsts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse]


def _key(seed: int, number: int) -> int:
    """A random number that no version of a library changes."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest())
