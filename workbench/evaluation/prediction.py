"""A prediction beside its reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.data.examples import Example


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One prediction beside its reference.

    Attributes:
        id: the example's.
        split: the split it stands in.
        prompt: the exact text the model was given.
        reference: what it should have said.
        references: what else would have been right.
        prediction: what it said.
        nll: negative log-likelihood of the reference and the end of the turn behind it, in nats; of a choice, that by
            which choices were compared (`Calibration.by`).
        tokens: tokens to which `nll` belongs.
        groups: the example's, such as `{"language": "en"}`.
        source: what is resampled as one, such as a conversation; the id, where nothing is said.
        choices: log-probability of each choice, where the model chose and did not write; `prediction` is the likeliest.
        bounds: choices that were not read to their end, since neither the likeliest one nor its probability hangs on
            them: what `choices` says of these is an upper bound. Together they have at most a thousandth.
        right, chosen: of a question with several right choices at once, those, and those that the model took; the
            probabilities don't add up to 1 then. None of any other.
    """

    id: str
    split: str
    prompt: str
    reference: str
    prediction: str
    nll: float
    tokens: int
    groups: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    choices: Mapping[str, float] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    bounds: frozenset[str] = frozenset()
    right: tuple[str, ...] | None = None
    chosen: tuple[str, ...] | None = None

    @classmethod
    def of_reference(cls, example: Example, split: str) -> "Prediction":
        """What a model would have said that is right, for what hangs on the questions alone; every choice counts 0."""
        return cls(
            id=example.id,
            split=split,
            prompt="",
            reference=example.completion,
            references=example.references,
            prediction=example.completion,
            nll=0.0,
            tokens=1,
            groups=example.groups,
            source=example.source,
            choices=dict.fromkeys(example.choices, 0.0),
            right=example.labels,
            chosen=example.labels,
        )

    @property
    def all_references(self) -> tuple[str, ...]:
        """Every right answer, `reference` first."""
        return (self.reference, *self.references)

    @property
    def resampled_as(self) -> str:
        """Its source, or itself."""
        return self.source or self.id
