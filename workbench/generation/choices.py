"""How likely a model finds choices behind prompts; each prompt is read once, and what choices begin with is, too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from workbench.generation.branches import PADDING, ROW_TOKENS, inside_window, tree_mask
from workbench.generation.context import cache_bytes, cache_room, leaves_window, most_logits, tokens_at_once
from workbench.generation.prompts import Prompts, read_prompts
from workbench.generation.pruning import Reading
from workbench.generation.tree import ROOT
from workbench.models import linear_cross_entropy, output_of, output_weight

# Prompts that are read together at most.
MOST_TOGETHER = 2**8
# Padding that costs as much as reading another group of rows by itself, in tokens.
PADDED_TOKENS = 2**6
# Nodes that are read step by step behind a prompt at most; where more are wanted, all are read.
STEPWISE = 2**7


def prompts_together(model: nn.Module, prompts: Sequence[Sequence[int]]) -> int:
    """How many prompts fit, with their keys and values and those of what is read behind them."""
    longest = max(map(len, prompts)) + STEPWISE
    return max(1, min(MOST_TOGETHER, cache_room() // (longest * cache_bytes(model))))


@torch.inference_mode()
def read_choices(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    readings: Sequence[Reading],
    pad_id: int,
    linear_output: bool = False,
    branching: bool = False,
) -> None:
    """Read what is wanted of the choices behind each prompt.

    Args:
        model: causal language model, with or without an adapter, in evaluation mode.
        prompts: token ids; they are read together, see `prompts_together`.
        readings: of each prompt; they say what is to be read, and learn its likelihoods.
        pad_id: fills up shorter rows; it is never attended to.
        linear_output: `has_linear_output(model)` said so: likelihoods are then measured without logits in memory.
        branching: `reads_branches(model)` said so: the choices of a prompt are then read in one row, and only those
            that are wanted, as far as no window is in the way; else all are read, in rows of their own.
    """
    behind = max(int(reading.tree.lengths.max()) for reading in readings)
    # A window counts columns: padding between virtual tokens and prompt would push them out of it too early.
    alone = len(prompts) > 1 and leaves_window(model, max(map(len, prompts)) + behind)
    for part in [slice(row, row + 1) for row in range(len(prompts))] if alone else [slice(None)]:
        some = readings[part]
        firsts = [reading.tree.tokens[reading.tree.children[ROOT]] for reading in some]
        read = read_prompts(model, prompts[part], firsts, pad_id)
        for reading, found in zip(some, read.logprobs, strict=True):
            reading.take([ROOT], found)
        _Behind(model, read, some, pad_id, linear_output).read(branching)


@dataclass(frozen=True)
class _Row:
    """Nodes that are read behind a prompt: its number, and theirs, each behind its ancestors."""

    prompt: int
    nodes: list[int]


class _Behind:
    """What is read behind prompts that were read.

    The keys and values of nodes that are read step by step stand behind those of the prompts, column by column: what
    stands where is in `_nodes` and `_ends`, (prompts, columns), and how many are taken of each prompt in `_used`.
    """

    def __init__(
        self, model: nn.Module, prompts: Prompts, readings: Sequence[Reading], pad_id: int, linear_output: bool
    ) -> None:
        self.model, self.prompts, self.readings = model, prompts, readings
        self.pad_id, self.linear_output = pad_id, linear_output
        self._used = np.zeros(len(readings), dtype=int)
        self._nodes = np.full((len(readings), 0), PADDING)
        self._ends = np.zeros((len(readings), 0), dtype=int)

    def read(self, branching: bool) -> None:
        """Read all that is wanted: step by step, or in rows of whole branches, or of a choice each."""
        behind = max(int(reading.tree.lengths.max()) for reading in self.readings)
        width = max(behind, min(ROW_TOKENS, tokens_at_once(self.model)))
        branching = branching and inside_window(self.model, self.prompts.columns + max(width, 2 * STEPWISE))
        whole: list[_Row] = []
        unread = list(range(len(self.readings)))
        while unread:
            step: list[_Row] = []
            for prompt in unread:
                reading = self.readings[prompt]
                if not (wanted := reading.wanted()):
                    continue
                # Where most is wanted, to read all at once takes less than to read it in steps.
                most = min(STEPWISE - self._used[prompt], len(reading.tree.inner) // 3)
                if branching and reading.needed is not None and len(wanted) <= most:
                    step.append(_Row(prompt, wanted))
                else:
                    whole += [_Row(prompt, nodes) for nodes in reading.tree.rows(width if branching else 1)]
            for rows in self._groups(step):
                self._read_rows(rows, keep=True)
            unread = [row.prompt for row in step]
        for rows in self._groups(whole):
            self._read_rows(rows, keep=False)

    def _groups(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows, like ones together, so many that their tokens and logits fit."""
        again = 0 if self.prompts.cache is not None else self.prompts.columns
        most = min(tokens_at_once(self.model), most_logits(self.model, self.linear_output))
        group: list[_Row] = []
        padding = 0
        for row in sorted(rows, key=lambda row: (-len(row.nodes), -self._used[row.prompt])):
            length = len(group[0].nodes) if group else 0
            padding += max(0, length - len(row.nodes))
            if group and ((length + again) * (len(group) + 1) > most or padding > PADDED_TOKENS):
                yield group
                group, padding = [], 0
            group.append(row)
        if group:
            yield group

    def _read_rows(self, rows: Sequence[_Row], keep: bool) -> None:
        """Read the nodes of some rows, and learn how likely their children are.

        Args:
            keep: what is read later behind these prompts sees them.
        """
        device = self.prompts.mask.device
        width = max(len(row.nodes) for row in rows)
        shape = (len(rows), width)
        ids, depths = np.full(shape, self.pad_id), np.ones(shape, dtype=int)
        nodes, ends = np.full(shape, PADDING), np.zeros(shape, dtype=int)
        children: list[np.ndarray] = []
        for number, row in enumerate(rows):
            tree, filled = self.readings[row.prompt].tree, slice(len(row.nodes))
            nodes[number, filled] = row.nodes
            ids[number, filled], depths[number, filled] = tree.tokens[row.nodes], tree.depths[row.nodes]
            ends[number, filled] = tree.ends[row.nodes]
            children += [tree.tokens[tree.children[node]] for node in row.nodes]
        owners = np.array([row.prompt for row in rows])
        start = int(self._used[owners].max()) if keep else 0
        predicts = torch.from_numpy(nodes >= 0).to(device)
        output = self._output(owners, start, ids, depths, nodes, ends, predicts, keep)
        found = log_probabilities(self.model, output, children, self.linear_output)
        behind = np.cumsum([len(tokens) for tokens in children])
        last = 0
        for row in rows:
            first, last = last, last + len(row.nodes)
            self.readings[row.prompt].take(row.nodes, found[behind[first - 1] if first else 0 : behind[last - 1]])
        if keep:
            self._note(owners, start, nodes, ends)

    def _output(
        self,
        owners: np.ndarray,
        start: int,
        ids: np.ndarray,
        depths: np.ndarray,
        nodes: np.ndarray,
        ends: np.ndarray,
        predicts: torch.Tensor,
        keep: bool,
    ) -> torch.Tensor:
        """What the model says at each node, row by row: hidden states where the output layer is linear, else logits.

        Args:
            owners: the rows' prompts, (rows,).
            start: columns behind the prompts that are seen, too.
            ids, depths, nodes, ends: (rows, width), see `ChoiceTree`.
            predicts: where there are nodes, (rows, width).
        """
        device, read = predicts.device, self.prompts
        prompts = torch.from_numpy(owners).to(device)
        input_ids = torch.from_numpy(ids).to(device)
        before = read.mask[prompts]
        width = ids.shape[1]
        positions = None
        if start or bool((depths != np.arange(1, width + 1))[nodes >= 0].any()):
            seen, seen_ends, own = (
                torch.from_numpy(values).to(device)
                for values in (
                    np.concatenate([self._nodes[owners, :start], nodes], axis=1),
                    np.concatenate([self._ends[owners, :start], ends], axis=1),
                    nodes,
                )
            )
            positions = before.sum(dim=1, keepdim=True) + torch.from_numpy(depths).to(device) - 1
            embedding = self.model.get_input_embeddings()  # type: ignore[operator]
            mask = tree_mask(before, seen, seen_ends, own, embedding.weight.dtype)
        else:  # one path in each row
            mask = torch.cat([before, predicts.to(before.dtype)], dim=1)
        if read.cache is not None:
            context = replace(read.context, cache=read.cache.of(prompts, read.columns + start, keep))
        else:
            context = read.context.widened(len(owners))
            input_ids = torch.cat([read.input_ids[prompts], input_ids], dim=1)
        with output_of(self.model, lambda hidden: hidden[:, -width:][predicts], hidden=self.linear_output):
            output: torch.Tensor = context.read(input_ids, mask, positions).logits
        return output

    def _note(self, owners: np.ndarray, start: int, nodes: np.ndarray, ends: np.ndarray) -> None:
        """Remember what stands in the columns from `start` on."""
        end = start + nodes.shape[1]
        if (lacking := end - self._nodes.shape[1]) > 0:
            self._nodes = np.pad(self._nodes, ((0, 0), (0, lacking)), constant_values=PADDING)
            self._ends = np.pad(self._ends, ((0, 0), (0, lacking)))
        self._nodes[owners, start:end], self._ends[owners, start:end] = nodes, ends
        self._used[owners] = end


def log_probabilities(
    model: nn.Module, output: torch.Tensor, tokens: Sequence[np.ndarray], linear_output: bool
) -> np.ndarray:
    """Log-probabilities of some tokens at each position, one position after the other, in nats.

    Args:
        output: (positions, width) hidden states where the output layer is linear, else (positions, vocabulary) logits.
        tokens: of each position, one or more.
    """
    device = output.device
    numbers = np.repeat(np.arange(len(tokens)), [len(some) for some in tokens])
    positions = torch.from_numpy(numbers).to(device)
    targets = torch.from_numpy(np.concatenate(tokens)).to(device)
    if linear_output:
        weight = output_weight(model)
        firsts = torch.tensor([int(some[0]) for some in tokens], device=device)
        hidden = output.to(weight.dtype).float()
        # The sum over the vocabulary comes out of the loss of one token; all others are single products.
        totals = linear_cross_entropy(output, weight, firsts) + (hidden * weight[firsts].float()).sum(dim=1)
        logits = (hidden[positions] * weight[targets].float()).sum(dim=1)
    else:
        totals = torch.logsumexp(output.float(), dim=-1)
        logits = output[positions, targets].float()
    found: np.ndarray = (logits - totals[positions]).cpu().numpy().astype(float)
    return found
