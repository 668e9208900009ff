"""How fast what ships answers, beside the adapter that it was made of."""

import time
from collections.abc import Sequence

from torch import nn

from workbench.data import Example
from workbench.generation.sampling import Sampling
from workbench.models import fast_evaluation
from workbench.run.heads import Head

# Questions that are asked of both, spread over all that there are, and asked first so that nothing is made anew.
ASKED, WARM = 12, 2


def answering_seconds(head: Head, model: nn.Module, examples: Sequence[Example], most: int) -> float:
    """Wall-clock time in which a model answers some questions, chosen or written.

    Args:
        head: with whose renderer it is asked.
        model: in evaluation mode.
        examples: of which some are asked.
        most: tokens of an answer.
    """
    some = examples[:: max(1, len(examples) // ASKED)][:ASKED]
    local = head.language_model(model)

    def answer(asked: Sequence[Example]) -> float:
        began = time.perf_counter()
        written = [example.prompt for example in asked if not example.choices]
        if written:
            local.generate(written, Sampling(max_new_tokens=most))
        for task in dict.fromkeys(example.task for example in asked if example.choices):
            of_task = [example for example in asked if example.choices and example.task == task]
            local.loglikelihood([e.prompt for e in of_task], [e.choices for e in of_task], task=task)
        return time.perf_counter() - began

    with fast_evaluation(model):
        answer(some[:WARM])
        return answer(some)
