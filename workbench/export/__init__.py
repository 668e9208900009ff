"""From a trained model to a plain checkpoint: save, reload in a fresh process, prove equal."""

from workbench.export.adapter import rank_for_vllm, save_adapter, why_not_served
from workbench.export.diagnosis import Source, low_rank_updates
from workbench.export.interface import Interface, interface_of
from workbench.export.process import FreshProcess, Question
from workbench.export.proof import Expected, Proof, proof_sequences, sequence_logits, sequence_states, write_proven

__all__ = [
    "Expected",
    "FreshProcess",
    "Interface",
    "Proof",
    "Question",
    "Source",
    "interface_of",
    "low_rank_updates",
    "proof_sequences",
    "rank_for_vllm",
    "save_adapter",
    "sequence_logits",
    "sequence_states",
    "why_not_served",
    "write_proven",
]
