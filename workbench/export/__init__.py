"""From a trained model to a plain checkpoint: save, reload in a fresh process, prove equal."""

from workbench.export.adapter import save_adapter
from workbench.export.proof import Expected, FreshProcess, Proof, proof_sequences, sequence_logits, write_proven

__all__ = [
    "Expected",
    "FreshProcess",
    "Proof",
    "proof_sequences",
    "save_adapter",
    "sequence_logits",
    "write_proven",
]
