"""Which label of which task is counted in a stream."""

import logging
from collections.abc import Collection

from workbench.errors import UserError
from workbench.recipe import Monitoring, Recipe

logger = logging.getLogger(__name__)

# What a recipe of version 0.1, which has no `monitoring`, is taken to mean; until 0.3.
FORMERLY = Monitoring(task="sentiment", label="negative", topic_task="topic")


def what_is_counted(recipe: Recipe, tasks: Collection[str], path: str) -> Monitoring:
    """The `monitoring` of a recipe, or what a recipe of version 0.1 is taken to mean.

    Args:
        tasks: in which the run chooses.
        path: of the recipe, or its name, for messages.

    Raises:
        UserError: the recipe has none, or it names a task in which the run does not choose.
    """
    known = ", ".join(map(repr, sorted(tasks))) or "none"
    if recipe.monitoring is not None:
        for field in ("task", "topic_task"):
            name = getattr(recipe.monitoring, field)
            if name is not None and name not in tasks:
                raise UserError(
                    f"{path}: monitoring has {field}={name!r}; tasks in which this run chooses: {known}. Correct it, "
                    "and start a new run"
                )
        return recipe.monitoring
    if recipe.inference_examples is None or FORMERLY.task not in tasks:
        asked = " and inference_examples, which say how a new text is asked," if not recipe.inference_examples else ""
        raise UserError(
            f'{path} does not say what is counted: add monitoring=Monitoring(task="...", label="..."){asked} to its '
            f"recipe (from workbench import Monitoring) and start a new run; tasks in which this one chooses: {known}"
        )
    topic = f', topic_task="{FORMERLY.topic_task}"' if FORMERLY.topic_task in tasks else ""
    logger.warning(
        '%s: the recipe does not say what is counted; before the next run, write monitoring=Monitoring(task="%s", '
        'label="%s"%s) there, which is taken for granted until 0.3',
        path, FORMERLY.task, FORMERLY.label, topic,
    )  # fmt: skip
    return FORMERLY
