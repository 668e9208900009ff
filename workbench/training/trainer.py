"""TRL's trainer with an objective of ours."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import RandomSampler, Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from workbench.methods import Driver
from workbench.training.activations import KeptActivations, numbered, with_places
from workbench.training.callbacks import Driven
from workbench.training.checkpoints import load_model, load_values, save_model, save_values, seal
from workbench.training.inputs import TrainingRows
from workbench.training.objectives import Objective
from workbench.training.packing import random_state, set_random_state
from workbench.training.rows import lengths

# Lengths that are multiples of this need few kernels; more of them than oneDNN's 1,024 are kept.
MULTIPLE = 8
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
        self.items_per_row = self.objective.total_items(rows.validation) / len(rows.validation)
        longest = max(int(lengths(part).max()) for part in (rows.train, rows.validation))
        text_config = model.config.get_text_config()  # type: ignore[union-attr,operator]
        balance = getattr(text_config, "router_aux_loss_coef", None)
        exact = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(
            model=model,  # type: ignore[arg-type]  # a PeftModel or a PreTrainedModel
            args=config,
            data_collator=with_places(self.objective.collator(self.pad_id, padding_multiple(model, longest))),
            train_dataset=numbered(rows.train),
            eval_dataset=numbered(rows.validation),
            processing_class=tokenizer,
            callbacks=[*callbacks, *([Driven(driver)] if driver is not None else [])],
        )
        # SFTTrainer rounds adapters on quantized bases to bfloat16, in which small updates are lost.
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name]
        if balance is not None:
            text_config.router_aux_loss_coef = balance  # SFTTrainer writes its own into what may be saved
        self.remove_callback(PrinterCallback)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The batches of an optimizer step, and the number of items in those of all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        items = torch.stack([self.objective.items(batch) for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(items).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum of the items' losses over their number in the whole optimizer step.

        In a validation the Trainer averages over rows. Dividing by an average row's items makes that the mean over
        items, whatever the batches.
        """
        with self.kept.of(inputs, model.training):
            loss = self.objective.loss(model, inputs, self.linear_output)
        if not model.training:
            rows = len(next(iter(inputs.values())))
            return loss / (rows * self.items_per_row)
        assert num_items_in_batch is not None, "get_batch_samples counts the items of each step"
        # The items are those of all processes, and their gradients are averaged.
        return loss / num_items_in_batch * self.accelerator.num_processes

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
        save_model(Path(output_dir or self.args.output_dir or "."), self.model, self.driver)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None and self.lr_scheduler is not None
        values = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "random": random_state(),
            "seconds": self.seconds,
        }
        save_values(Path(output_dir), values)

    def _save_rng_state(self, output_dir: str) -> None:
        """It is among what stands beside the optimizer's state."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert isinstance(self.model, nn.Module)
        load_model(Path(resume_from_checkpoint), self.model, self.driver, self.args.device)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        values = load_values(Path(checkpoint))
        self.optimizer.load_state_dict(values["optimizer"])
        self.lr_scheduler.load_state_dict(values["scheduler"])
        self.seconds_before = values["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_values(Path(checkpoint))["random"])

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
