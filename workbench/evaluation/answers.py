"""What a model answers, and how likely it finds the reference: batched, greedy, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from workbench.console import progress_bar
from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.evaluation.calibration import Calibration, ChoiceScorer
from workbench.evaluation.prediction import Prediction
from workbench.generation.decode import Decoded, decode_batch, most_tokens
from workbench.models import has_linear_output, keep_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Prompts that are answered together, at most; what they may take is said where it is kept.
MOST_TOGETHER = 256


def generation_config(renderer: Renderer, model: nn.Module, max_new_tokens: int) -> "GenerationConfig":
    """Greedy decoding that stops at the end of the turn, whatever habits the checkpoint's own settings have."""
    from transformers import GenerationConfig

    known = model.generation_config.eos_token_id  # type: ignore[union-attr]
    known = known if isinstance(known, list) else [known] if isinstance(known, int) else []
    pad = renderer.tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=sorted({renderer.end_of_turn, *known}),
        pad_token_id=renderer.end_of_turn if pad is None else pad,
    )


def answer_all(
    model: nn.Module,
    renderer: Renderer,
    examples: Mapping[str, Sequence[tuple[Example, Rendered]]],
    max_new_tokens: int,
    title: str,
    calibration: Mapping[str, Calibration] | None = None,
) -> list[Prediction]:
    """Let `model` answer every example, and measure the likelihood of every reference.

    Args:
        model: with or without an adapter, in evaluation mode.
        examples: split -> examples with their tokens.
        max_new_tokens: most tokens of a written answer.
        title: in front of the progress bar.
        choosing: task -> how likelihoods of choices become probabilities; None lets the model write all answers.

    Returns:
        Answers in the order of `examples`.
    """
    found: dict[tuple[str, str], Prediction] = {}
    for split, pairs in examples.items():
        if calibration is not None and (choices := [pair for pair in pairs if pair[0].choices]):
            for answer in ChoiceScorer(model, renderer).choose(split, choices, calibration, f"{title}, {split}"):
                found[split, answer.id] = answer
    writing = {split: [pair for pair in pairs if (split, pair[0].id) not in found] for split, pairs in examples.items()}
    for answer in _written(model, renderer, writing, max_new_tokens, title):
        found[answer.split, answer.id] = answer
    return [found[split, example.id] for split, pairs in examples.items() for example, _ in pairs]


def _written(
    model: nn.Module,
    renderer: Renderer,
    examples: Mapping[str, Sequence[tuple[Example, Rendered]]],
    max_new_tokens: int,
    title: str,
) -> list[Prediction]:
    """What `model` writes, by greedy decoding."""
    flat = [(split, example, rendered) for split, pairs in examples.items() for example, rendered in pairs]
    if not flat:
        return []
    rendered = [item[2] for item in flat]
    config = generation_config(renderer, model, max_new_tokens)
    linear_output = has_linear_output(model)
    lengths = [len(item.prompt_ids) + max_new_tokens for item in rendered]
    decoded: dict[int, Decoded] = {}
    keep_memory()
    with progress_bar(title, total=len(flat), unit="answer") as bar:
        for batch in _batches(lengths, most_tokens(model)):
            together = [rendered[i] for i in batch]
            found = decode_batch(
                model, together, config.eos_token_id, config.pad_token_id, max_new_tokens, linear_output
            )
            decoded.update(zip(batch, found, strict=True))
            bar.update(len(batch))
    return [
        Prediction(
            id=example.id,
            split=split,
            prompt=item.text,
            reference=example.completion,
            prediction=renderer.tokenizer.decode(decoded[number].tokens, skip_special_tokens=True).strip(),
            nll=decoded[number].nll,
            tokens=len(item.completion_ids),
            groups=example.groups,
            source=example.source,
        )
        for number, (split, example, item) in enumerate(flat)
    ]


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of `lengths`, longest first, in batches of at most so many tokens."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        together = max(1, min(MOST_TOGETHER, most // lengths[order[0]]))
        yield order[:together]
        order = order[together:]
