"""From a trained model to a plain checkpoint: save, reload in a fresh process, prove equal."""

from workbench.shipping.adapter import save_adapter
from workbench.shipping.proof import Expected, FreshProcess, Proof, proof_sequences, sequence_logits, ship_plain

__all__ = [
    "Expected",
    "FreshProcess",
    "Proof",
    "proof_sequences",
    "save_adapter",
    "sequence_logits",
    "ship_plain",
]
