"""What a model answers, and how likely it finds the reference: batched, greedy, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.evaluation.decode import Decoded, decode_batch
from workbench.models import has_plain_output, keep_memory
from workbench.training.callbacks import progress_bar

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Bounds of what is answered together: prompts, their tokens with the new ones, and what the keys and values of
# those and the logits of all positions take.
MOST_TOGETHER = 128
MOST_TOKENS = 2**14
CACHE_BYTES = 2**31
LOGIT_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One prediction beside its reference.

    Attributes:
        id: the example's.
        split: the split it stands in.
        prompt: the exact text the model was given.
        reference: what it should have said.
        prediction: what it said.
        nats: negative log-likelihood of the reference and the end of the turn behind it.
        tokens: tokens to which `nats` belongs.
        groups: the example's, such as `{"language": "en"}`.
        source: what is resampled as one, such as a conversation; the id, where nothing is said.
    """

    id: str
    split: str
    prompt: str
    reference: str
    prediction: str
    nats: float
    tokens: int
    groups: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def language(self) -> str:
        """Two letters; English where nothing is said."""
        return self.groups.get("language", "en")

    @property
    def resampled_as(self) -> str:
        """Its source, or itself."""
        return self.source or self.id


def generation_config(renderer: Renderer, model: nn.Module, max_new_tokens: int) -> "GenerationConfig":
    """Greedy decoding that stops at the end of the turn, whatever habits the checkpoint's own settings have."""
    from transformers import GenerationConfig

    known = model.generation_config.eos_token_id  # type: ignore[union-attr]
    known = known if isinstance(known, list) else [known] if isinstance(known, int) else []
    pad = renderer.tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
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
) -> list[Answer]:
    """Let `model` answer every example, and measure the likelihood of every reference.

    Args:
        model: with or without an adapter, in evaluation mode.
        examples: split -> examples with their tokens.
        max_new_tokens: most tokens of an answer.
        title: in front of the progress bar.

    Returns:
        Answers in the order of `examples`.
    """
    flat = [(split, example, rendered) for split, pairs in examples.items() for example, rendered in pairs]
    rendered = [item[2] for item in flat]
    config = generation_config(renderer, model, max_new_tokens)
    plain_output = has_plain_output(model)
    lengths = [len(item.prompt_ids) + max_new_tokens for item in rendered]
    decoded: dict[int, Decoded] = {}
    keep_memory()
    with progress_bar(title, total=len(flat), unit="answer") as bar:
        for batch in _batches(lengths, _most_tokens(model, plain_output)):
            together = [rendered[i] for i in batch]
            found = decode_batch(
                model, together, config.eos_token_id, config.pad_token_id, max_new_tokens, plain_output
            )
            decoded.update(zip(batch, found, strict=True))
            bar.update(len(batch))
    return [
        Answer(
            id=example.id,
            split=split,
            prompt=item.text,
            reference=example.completion,
            prediction=renderer.tokenizer.decode(decoded[number].tokens, skip_special_tokens=True).strip(),
            nats=decoded[number].nats,
            tokens=len(item.completion_ids),
            groups=example.groups,
            source=example.source,
        )
        for number, (split, example, item) in enumerate(flat)
    ]


def _batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Indices of `lengths`, longest first, in batches of at most so many tokens."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        together = max(1, min(MOST_TOGETHER, most_tokens // lengths[order[0]]))
        yield order[:together]
        order = order[together:]


def _most_tokens(model: nn.Module, plain_output: bool) -> int:
    """How many tokens `model` can read at once in bounded memory."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(model.parameters()).element_size()
    most = min(MOST_TOKENS, CACHE_BYTES // (2 * config.num_hidden_layers * heads * width * size))
    return most if plain_output else min(most, LOGIT_BYTES // (4 * config.vocab_size))
