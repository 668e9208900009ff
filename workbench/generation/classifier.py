"""A model with a head of classes as a `LanguageModel`: it tells how likely each class is, and writes nothing."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.console import progress_bar
from workbench.data.labels import Labels
from workbench.data.render import Renderer
from workbench.errors import UserError
from workbench.generation.context import Context, most_tokens, parts_of, tokens_at_once
from workbench.generation.language_model import ChoiceLikelihoods, Conversation, Generated
from workbench.generation.prompts import read_beginning
from workbench.generation.pruning import Pruning
from workbench.generation.sampling import Sampling
from workbench.models import class_logits, keep_memory, without_head


class Classifier:
    """A classifier with its renderer and labels; implements `LanguageModel`.

    Args:
        model: with or without an adapter, in evaluation mode.
        renderer: of its prompts, its tokenizer with a padding token that no prompt ends with.
        labels: of the rows of its head.
    """

    def __init__(self, model: nn.Module, renderer: Renderer, labels: Labels) -> None:
        self.model = model
        self.renderer = renderer
        self.labels = labels

    def prompt(self, conversation: Conversation) -> str:
        """The exact text the model is given."""
        return self.renderer.prompt(conversation)

    def loglikelihood(
        self,
        conversations: Sequence[Conversation],
        choices: Sequence[Sequence[str]],
        *,
        end_of_turn: bool = True,
        task: str = "",
        pruning: Pruning | None = None,
        title: str = "",
    ) -> list[ChoiceLikelihoods]:
        """How likely each choice is among the classes of the task; see `LanguageModel`.

        Where a text may have several of them, each is as likely as it is by itself. All are read, whatever `pruning`
        says: one product gives them all.

        Raises:
            UserError: the head was not trained for this task, or for one of the choices.
        """
        first = self.labels.first(task)
        count = len(self.labels.tasks[task])
        rows = [self.labels.rows(task, given) for given in choices]
        prompts = [ids for _, ids in self.renderer.prompts(conversations)]
        of_task = self._logits(prompts, title)[:, first : first + count]
        own = torch.nn.functional.logsigmoid if self.labels.several else partial(torch.log_softmax, dim=-1)
        logs = own(of_task.double()).numpy()
        return [
            ChoiceLikelihoods(logprobs=found[np.array(chosen) - first], tokens=np.ones(len(chosen), dtype=int))
            for found, chosen in zip(logs, rows, strict=True)
        ]

    @torch.inference_mode()
    def _logits(self, prompts: Sequence[Sequence[int]], title: str) -> torch.Tensor:
        """Of all classes, (prompts, classes); prompts of like length are read together, in bounded memory."""
        keep_memory()
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        device = next(self.model.parameters()).device
        found = torch.empty(len(prompts), len(self.labels.names))
        with without_head(self.model):
            first, shared = read_beginning(self.model, prompts)
        with progress_bar(title, total=len(prompts), unit="text") as bar:
            rests = [len(prompts[index]) - len(shared) for index in order]
            # What is shared lies in memory once for each row.
            most = tokens_at_once(self.model)
            if shared:
                most = max(
                    1, min(most, most_tokens(self.model) * rests[0] // (first.virtual_tokens + len(shared) + rests[0]))
                )
            for part in parts_of(rests, most):
                batch = order[part]
                texts = [prompts[index][len(shared) :] for index in batch]
                ids, mask = padded(texts, self.renderer.tokenizer.pad_token_id)
                read = _behind(first, len(shared), len(batch)) if shared else None
                found[batch] = class_logits(self.model, ids.to(device), mask.to(device), read).cpu()
                bar.update(len(batch))
        return found

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        references: Sequence[str] | None = None,
        title: str = "",
    ) -> list[Generated]:
        """It can't.

        Raises:
            UserError: always.
        """
        raise self._silent()

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """It can't.

        Raises:
            UserError: always.
        """
        raise self._silent()

    def _silent(self) -> UserError:
        return UserError(
            f"a head of classes writes no text, it tells {', '.join(self.labels.names[:4])} apart: use `classify`, or "
            "a method that chooses by likelihood"
        )


def _behind(first: Context, shared: int, rows: int) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """Reads so many rows behind what the cache of one row holds."""

    def read(input_ids: torch.Tensor, mask: torch.Tensor) -> Any:
        context = first.selected(torch.zeros(rows, dtype=torch.long, device=input_ids.device))
        before = mask.new_ones(rows, first.virtual_tokens + shared)
        return context.read(input_ids, torch.cat([before, mask], dim=1))

    return read


def padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of texts, each (texts, length), padded on the right."""
    longest = max(map(len, prompts))
    ids: list[list[Any]] = [[*prompt, *[pad_id] * (longest - len(prompt))] for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return torch.tensor(ids), (torch.arange(longest)[None] < lengths[:, None]).long()
