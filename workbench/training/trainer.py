"""TRL's trainer with an objective of ours."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from workbench.methods import Driver
from workbench.models import split_weights
from workbench.processes import count, gathered, leads, rank
from workbench.training.activations import KeptActivations, numbered, with_places
from workbench.training.callbacks import Agreed, Driven
from workbench.training.checkpoints import load_model, load_values, save_model, save_values, seal
from workbench.training.inputs import TrainingRows
from workbench.training.objectives import Objective
from workbench.training.packing import random_state, set_random_state
from workbench.training.rows import lengths

# Lengths that are multiples of this need few kernels; more of them than oneDNN's 1,024 are kept.
MULTIPLE = 8
# In a batch, 1 if its rows count, 0 if they are there so that this process keeps step with the others.
COUNTS = "counts"
# More than the epochs of any training: no seed's order of one is another seed's of another.
SEEDS_APART = 100_003
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


class ObjectiveTrainer(SFTTrainer):
    """`SFTTrainer` with rows and loss of an `Objective`, a loss that is exact under accumulation."""

    # compute_loss divides by the items of the whole step itself.
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]  # TRL's base class says None

    def __init__(
        self,
        *,
        model: nn.Module,
        config: SFTConfig,
        tokenizer: Any,
        rows: TrainingRows,
        linear_output: bool,
        kept: KeptActivations,
        callbacks: Sequence[TrainerCallback] = (),
        driver: Driver | None = None,
    ) -> None:
        """Make a trainer that needs nothing more than `train` to be called.

        Args:
            model: on its device; trained in place.
            rows: what is trained on, and for which objective.
            linear_output: `has_linear_output(model)`.
            kept: what the frozen layers give for the rows.
            callbacks: called at every event of the training, in this order.
            driver: what the method does of its own at each step.
        """
        self.objective: Objective = rows.objective
        self.linear_output = linear_output
        self.driver = driver
        self.kept = kept
        self.began, self.seconds_before = time.perf_counter(), 0.0
        self.pad_id = tokenizer.pad_token_id or 0
        self.validation_items = self.objective.total_items(rows.validation)
        longest = max(int(lengths(part).max()) for part in (rows.train, rows.validation))
        self.collate = with_places(self.objective.collator(self.pad_id, padding_multiple(model, longest)))
        text_config = model.config.get_text_config()  # type: ignore[union-attr,operator]
        balance = getattr(text_config, "router_aux_loss_coef", None)
        exact = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(
            model=model,  # type: ignore[arg-type]  # a PeftModel or a PreTrainedModel
            args=config,
            data_collator=shared_out(self.collate, rank(), count()),
            train_dataset=numbered(rows.train),
            eval_dataset=numbered(rows.validation),
            processing_class=tokenizer,
            callbacks=[*callbacks, *([Driven(driver)] if driver is not None else []), Agreed()],
        )
        # SFTTrainer rounds adapters on quantized bases to bfloat16, in which small updates are lost.
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name]
        if balance is not None:
            text_config.router_aux_loss_coef = balance  # SFTTrainer writes its own into what may be saved
        self.remove_callback(PrinterCallback)
        if not leads():  # its rows are others, and so is what dropout drops of them
            torch.manual_seed(SEEDS_APART * rank() + config.seed)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Where several processes train: what gives the loss of this one's share, its gradients averaged over all."""
        if count() == 1 or not training or not isinstance(model, nn.Module) or model is not self.model:
            return super()._wrap_model(model, training, dataloader)
        self.accelerator.prepare_model(model, evaluation_mode=True)  # its precision and device
        options = self.accelerator.ddp_handler.to_kwargs()  # which the Trainer makes
        parallel, watched = nn.parallel.DistributedDataParallel, LossOfBatch(model, self._loss)
        parallel._set_params_and_buffers_to_ignore_for_model(watched, [name for name, _ in split_weights(watched)])
        return parallel(watched, **options)

    def _get_dataloader(self, *arguments: Any, **options: Any) -> Any:
        """Every process reads all rows of a batch, of which it takes its share: see `shared_out`."""
        loader = super()._get_dataloader(*arguments, **options)
        if isinstance(loader.batch_sampler, BatchSamplerShard):  # accelerate's own way makes up what a last batch lacks
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
            loader.batch_sampler.even_batches = False
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The batches of an optimizer step, and the number of items in those of all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        items = torch.stack([self.objective.items(batch) * batch[COUNTS] for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(items).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum of the items' losses over their number in the whole optimizer step."""
        assert num_items_in_batch is not None, "get_batch_samples counts the items of each step"
        # The items are those of all processes, and their gradients are averaged.
        loss = self._loss(model, inputs) if model is self.model else model(inputs)
        return loss / num_items_in_batch * self.accelerator.num_processes

    def _loss(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the losses of a batch's items."""
        with self.kept.of(inputs, model.training):
            loss = self.objective.loss(model, inputs, self.linear_output)
        return loss * inputs[COUNTS]

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss of all items of the validation rows, whatever the batches and the number of processes."""
        self.callback_handler.eval_dataloader = dataloader
        assert isinstance(self.model, nn.Module)
        self.model.eval()
        found = []
        for inputs in dataloader:
            with torch.no_grad(), self.compute_loss_context_manager():
                found.append(float(self._loss(self.model, self._prepare_inputs(inputs))))
        loss = math.fsum(gathered(math.fsum(found))) / self.validation_items
        metrics = {f"{metric_key_prefix}_loss": loss}
        rows = len(dataloader.dataset)  # type: ignore[arg-type]  # those of a split have a length
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows)  # type: ignore[arg-type]

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, with that of the parts before interruptions."""
        return self.seconds_before + time.perf_counter() - self.began

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, exactly, for a training that is to go on.

        PEFT's own files hold what inference needs: of a prompt made by a network not the network, of AdaLoRA only the
        ranks that are left.
        """
        assert isinstance(self.model, nn.Module)
        if leads():
            save_model(Path(output_dir or self.args.output_dir or "."), self.model, self.driver)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None and self.lr_scheduler is not None
        first, *others = gathered(random_state())
        values = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "random": first,
            "others": others,
            "seconds": self.seconds,
        }
        if leads():
            save_values(Path(output_dir), values)

    def _save_rng_state(self, output_dir: str) -> None:
        """It is among what stands beside the optimizer's state."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if leads():
            seal(Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert isinstance(self.model, nn.Module)
        load_model(Path(resume_from_checkpoint), self.model, self.driver)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        values = load_values(Path(checkpoint))
        self.optimizer.load_state_dict(values["optimizer"])
        self.lr_scheduler.load_state_dict(values["scheduler"])
        self.seconds_before = values["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        values = load_values(Path(checkpoint))
        states = [values["random"], *values.get("others", ())]
        if rank() < len(states):  # it may have been begun by fewer processes
            set_random_state(states[rank()])

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._repeatable(super()._get_train_sampler(train_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return self._repeatable(super()._get_eval_sampler(eval_dataset))

    def _repeatable(self, sampler: Any) -> Any:
        """A sampler with its order by seed and epoch, where it has one that is drawn."""
        if isinstance(sampler, LengthGroupedSampler):
            sampler.lengths = list(sampler.lengths)  # it asks for each, and a dataset reads its file each time
        if not isinstance(sampler, LengthGroupedSampler | RandomSampler):
            return sampler
        return OrderOfEpoch(sampler, self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """None are counted: Transformers goes through all parameters for it at every step."""
        return 0

    def _send_telemetry(self) -> None:
        """A user's texts are the user's: nothing reports to a hub that training began."""


class LossOfBatch(nn.Module):
    """The loss of a batch as what a module gives: `DistributedDataParallel` watches what its own forward computes.

    Args:
        loss: model and batch -> sum of the losses of the batch's items.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss, without dimensions."""
        return self.loss(self.model, batch)


def shared_out(
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]], process: int, processes: int
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
    """A collator that takes one process's share of the rows of a batch: every so many, as they are of like length.

    So each step reads the rows that one process alone would read, to the last and smallest batch of an epoch. Where a
    batch has no row left for a process, it is given the first one, which doesn't count.
    """

    def collated(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        share = examples[process::processes]
        return {**collate(share or examples[:1]), COUNTS: torch.tensor(float(bool(share)))}

    return collated


def padding_multiple(model: nn.Module, longest: int) -> int:
    """Lengths are padded to a multiple of this, if the model's context has room for it.

    Args:
        longest: tokens of the longest row.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr,operator]
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0)
    return MULTIPLE if context is None or longest + MULTIPLE + virtual <= context else 1


class OrderOfEpoch(Sampler[int]):
    """What another sampler gives, in an order that hangs on the seed and the number of the epoch alone.

    Transformers' samplers draw the order of each epoch from PyTorch's random state as it is then. A training that goes
    on in its second epoch or later does not have the state of that epoch's beginning, would draw another order, and
    leave out some rows for others that it saw already. The Trainer tells the number by `set_epoch`.
    """

    def __init__(self, sampler: LengthGroupedSampler | RandomSampler, seed: int) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is to begin, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEEDS_APART * self.seed + self.epoch)
            return iter(list(self.sampler))
