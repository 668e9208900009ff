"""What a head of classes tells apart: the choices of each task, in the order of the head's rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.data.examples import Example
from workbench.errors import UserError, collected

TRAINED = ("train", "validation")


@dataclass(frozen=True)
class Labels:
    """The classes of every task.

    Attributes:
        tasks: task -> its classes; one after another they are the rows of the head.
        several: a text may have several of a task's classes at once, or none.
    """

    tasks: Mapping[str, Sequence[str]]
    several: bool = False

    @property
    def names(self) -> list[str]:
        """What the rows are called in a checkpoint's config: `class`, or `task/class` where there are several tasks."""
        if len(self.tasks) == 1:
            return [name for names in self.tasks.values() for name in names]
        return [f"{task}/{name}" for task, names in self.tasks.items() for name in names]

    def first(self, task: str) -> int:
        """The first row of a task.

        Raises:
            UserError: the head knows no such task.
        """
        rows = 0
        for known, names in self.tasks.items():
            if known == task:
                return rows
            rows += len(names)
        raise UserError(f"the head was trained for {', '.join(map(repr, self.tasks))} and not for the task {task!r}")

    def rows(self, task: str, choices: Iterable[str]) -> list[int]:
        """The rows of some classes of a task, in their order.

        Raises:
            UserError: no such task, or no such class of it.
        """
        first, names = self.first(task), list(self.tasks[task])
        choices = list(choices)
        if new := [choice for choice in choices if choice not in names]:
            raise UserError(f"{', '.join(map(repr, new[:3]))}: not among the classes {', '.join(names)} of the head")
        return [first + names.index(choice) for choice in choices]


def labels_of(splits: Mapping[str, Iterable[Example]]) -> Labels:
    """The classes of a recipe's examples: tasks as the training examples bring them, classes as their choices are.

    Args:
        splits: all that are trained on, validated with or asked; `train` first.

    Raises:
        UserError: examples that have no classes, or other ones than those of the same task before; or a task that is
            asked and not trained; or some with one right class and some with several. All of them are named.
    """
    several: bool | None = None
    tasks: dict[str, tuple[str, ...]] = {}
    trained: dict[str, set[str]] = {split: set() for split in TRAINED}
    asked: set[str] = set()
    problems: dict[str, str] = {}
    for split, examples in splits.items():
        for example in examples:
            if not example.choices:
                why = "has no choices; what is answered in words can't be learned as a class"
                problems.setdefault("", f"{split}: {example.id} {why}")
                continue
            known = tasks.setdefault(example.task, example.choices)
            if set(known) != set(example.choices):
                why = f"{_shown(example.choices)}, and before that {_shown(known)}: candidates are no classes"
                problems.setdefault(f"task {example.task}", f"{split}: {example.id} chooses from {why}")
            trained.get(split, asked).add(example.task)
            if several not in (None, example.labels is not None):
                why = "one right class" if several else "several right classes at once"
                problems.setdefault(
                    "labels", f"{split}: {example.id} has {why}, unlike those before it: one head has one loss"
                )
            several = example.labels is not None
    for split, found in trained.items():
        if missing := asked - found:
            listed = ", ".join(map(repr, sorted(missing)))
            problems.setdefault(split, f"{split} has no examples of {listed}, and so a head can't learn it")
    if problems:
        raise collected("head 'classes'", [*problems.values(), 'take head="likelihood", which reads any choices'])
    return Labels(tasks, bool(several))


def _shown(choices: Sequence[str]) -> str:
    return ", ".join(choices[:4]) + ", ..." * (len(choices) > 4)
