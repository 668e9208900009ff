"""Train an attached model on rendered examples."""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint

from workbench import files
from workbench.errors import MethodError
from workbench.methods import Driver
from workbench.models import fast_training, has_linear_output, keep_memory
from workbench.recipe import Training
from workbench.training.callbacks import (
    BestState,
    Driven,
    FiniteLoss,
    Progress,
    load_trained_state,
    save_whole,
    trained_state,
)
from workbench.training.loss import RightPadding, mean_completion_loss, negative_log_likelihoods
from workbench.training.rows import TrainingRows, count_labels, lengths

# A user's texts are the user's: nothing reports to a hub that training began.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from trl import SFTConfig, SFTTrainer

# Lengths that are multiples of this need few kernels; more of them than oneDNN's 1,024 are kept.
MULTIPLE = 8
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

# In a checkpoint: all that is trained of an adapter.
STATE_FILE = "trained.safetensors"
# Beside the best state of a finished training: what the method's driver knows.
DRIVER_FILE = "driver.safetensors"
# Batches of training that a validation computes as one.
VALIDATED_TOGETHER = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training took and how it went.

    Attributes:
        seconds: wall-clock time, validations included; of the last part only, if it was resumed.
        tokens_per_second: tokens of the rows trained on, without padding, over the time without validations; of
            the last part only, if it was resumed.
        steps: optimizer steps that were made.
        learning_rate: the peak.
        validation_loss: of the best state, which is the one the model has now; nats per token.
        checked_loss: of that state on the first `CHECKED` validation examples, computed as training computes. What
            is saved and loaded again must have it, too.
        curve: `{"step", "loss"}` and `{"step", "validation_loss"}`, in order.
    """

    seconds: float
    tokens_per_second: float
    steps: int
    learning_rate: float
    validation_loss: float
    checked_loss: float
    curve: Sequence[Mapping[str, float]]


class CompletionTrainer(SFTTrainer):
    """`SFTTrainer` with our loss: exact under accumulation, logits only at labelled positions.

    `mean_labels` is the number of labelled tokens of an average validation row, `plain_output` whether the
    model has a plain output layer, `driver` what the method does of its own at each step.
    """

    # compute_loss divides by the labels of the whole step itself.
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]  # TRL's base class says None
    mean_labels = 1.0
    linear_output = False
    driver: Driver | None = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained of an adapter, exactly, for a training that is to go on.

        PEFT's own files hold what inference needs: of a prompt made by a network not the network, of AdaLoRA only the
        ranks that are left.
        """
        if not isinstance(self.model, PeftModel):
            super().save_model(output_dir, _internal_call)
            return
        state = {f"model.{name}": value for name, value in trained_state(self.model).items()}
        if self.driver is not None:
            state |= {f"driver.{name}": value for name, value in self.driver.state().items()}
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_whole(state, folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        file = Path(resume_from_checkpoint, STATE_FILE)
        if not file.is_file():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "driver": {}}
        for key, value in load_file(file, device=str(self.args.device)).items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        assert isinstance(self.model, nn.Module)
        load_trained_state(self.model, parts["model"])
        if self.driver is not None:
            self.driver.load_state(parts["driver"])

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return _with_lengths_at_hand(super()._get_train_sampler(train_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return _with_lengths_at_hand(super()._get_eval_sampler(eval_dataset))

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """None are counted: Transformers goes through all parameters for it at every step."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum of the labelled tokens' losses over their number in the whole optimizer step.

        In a validation the Trainer averages over rows. Dividing by an average row's labels makes that the mean over
        tokens, whatever the batches.
        """
        losses, _ = negative_log_likelihoods(
            model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], self.linear_output
        )
        if not model.training:
            return losses.sum() / (len(inputs["labels"]) * self.mean_labels)
        loss = losses.sum() / (num_items_in_batch if num_items_in_batch is not None else len(losses))
        # The items are those of all processes, and their gradients are averaged.
        return loss * self.accelerator.num_processes


def _with_lengths_at_hand(sampler: Any) -> Any:
    """Let a sampler that sorts by length have a list: it asks for each row, and a dataset reads its file each time."""
    if isinstance(sampler, LengthGroupedSampler):
        sampler.lengths = list(sampler.lengths)
    return sampler


def steps_in(training: Training, rows: int) -> tuple[int, int]:
    """Optimizer steps of the whole training, and steps between two validations."""
    steps = max(1, math.ceil(training.num_train_epochs * math.ceil(rows / training.batch_size)))
    return steps, max(1, math.ceil(steps / training.validations))


def train(
    model: nn.Module,
    tokenizer: Any,
    rows: TrainingRows,
    training: Training,
    learning_rate: float,
    autocast: bool,
    folder: Path,
    seed: int,
    title: str,
    driver: Driver | None = None,
) -> Trained:
    """Train `model` in place and leave it in its best state.

    If `folder` holds checkpoints of an interrupted training, that training goes on, to the same result.

    Args:
        model: its trainable parameters are those with `requires_grad`.
        autocast: compute in bfloat16 whatever is kept in float32.
        folder: for checkpoints, the best state and TensorBoard's logs (`logs/`).
        seed: of the order of the examples and of dropout.
        title: in front of the progress bar.
        driver: what the method does of its own at each step.

    Raises:
        MethodError: nothing to train, no label, or a loss that is no number.
    """
    trainable = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise MethodError("no trainable parameters: nothing would be learned")
    finished = folder / "finished.json"
    best = BestState(folder / "best.safetensors", training.early_stopping_patience, driver.settled if driver else 0)
    if finished.is_file():
        # An interruption came after the training, which must not go on from a checkpoint before its early stop.
        best.restore(model)
        if driver is not None:
            driver.load_state(load_file(folder / DRIVER_FILE))
        return Trained(**json.loads(finished.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    steps, every = steps_in(training, len(rows.train))
    trainer = _make_trainer(
        model,
        tokenizer,
        rows,
        _config(training, steps, every, learning_rate, autocast, folder, seed),
        [best, FiniteLoss(), Progress(title), _tensorboard(folder / "logs")],
        driver,
    )
    # SFTTrainer rounds adapters on quantized bases to bfloat16, in which small updates are lost.
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.data = trainable[name]
    checkpoint = _last_whole_checkpoint(folder)
    start = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    began = time.perf_counter()
    keep_memory()
    trainer.linear_output = has_linear_output(model)
    if trainer.linear_output:
        # Without gradients and without logits there is room for more.
        trainer.args.per_device_eval_batch_size *= VALIDATED_TOGETHER
    with ExitStack() as stack:
        stack.enter_context(fast_training(model))
        if autocast:
            # Autocast brings inputs and weights together; PEFT's casts of every input to float32 only cost time.
            stack.enter_context(disable_input_dtype_casting(model))
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = time.perf_counter() - began
        best.restore(model)
        model.eval()
        with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=autocast):
            together = max(1, training.batch_size // training.gradient_accumulation_steps)
            checked_loss = mean_completion_loss(model, rows.checked, tokenizer.pad_token_id or 0, together)
    log = trainer.state.log_history
    validating = sum(entry["eval_runtime"] for entry in log if "eval_runtime" in entry and entry["step"] > start)
    passes = (trainer.state.global_step - start) * training.batch_size / len(rows.train)
    trained = Trained(
        seconds=seconds,
        tokens_per_second=int(lengths(rows.train).sum()) * passes / max(seconds - validating, 1e-9),
        steps=trainer.state.global_step,
        learning_rate=learning_rate,
        validation_loss=min(best.losses(trainer.state)),
        checked_loss=checked_loss,
        curve=[
            {"step": entry["step"], name: entry[key]}
            for entry in log
            for key, name in (("loss", "loss"), ("eval_loss", "validation_loss"))
            if key in entry
        ],
    )
    if driver is not None:
        save_whole(driver.state(), folder / DRIVER_FILE)
    files.write_json(finished, asdict(trained))
    return trained


def _make_trainer(
    model: nn.Module,
    tokenizer: Any,
    rows: TrainingRows,
    config: SFTConfig,
    callbacks: Sequence[TrainerCallback],
    driver: Driver | None,
) -> CompletionTrainer:
    text_config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    balance = getattr(text_config, "router_aux_loss_coef", None)
    longest = max(int(lengths(part).max()) for part in (rows.train, rows.validation))
    trainer = CompletionTrainer(
        model=model,  # type: ignore[arg-type]  # a PeftModel or a PreTrainedModel
        args=config,
        data_collator=RightPadding(tokenizer.pad_token_id or 0, _multiple(model, longest)),
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        processing_class=tokenizer,
        callbacks=[*callbacks, *([Driven(driver)] if driver is not None else [])],
    )
    if balance is not None:
        text_config.router_aux_loss_coef = balance  # the trainer writes its own into what may be saved
    trainer.driver = driver
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = True
    trainer.args._n_gpu = min(1, trainer.args.n_gpu)  # the model is on one device
    trainer.mean_labels = count_labels(rows.validation) / len(rows.validation)
    return trainer


def _config(
    training: Training, steps: int, every: int, learning_rate: float, autocast: bool, folder: Path, seed: int
) -> SFTConfig:
    ours = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": training.batch_size // training.gradient_accumulation_steps,
        "per_device_eval_batch_size": training.batch_size // training.gradient_accumulation_steps,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        # The rate is 0 in the first step of a warm-up, and something has to be learned after it.
        "warmup_steps": min(math.ceil(training.warmup_steps * steps), steps - 1),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": seed,
        "train_sampling_strategy": "group_by_length",
        "bf16": autocast,
        "use_cpu": not torch.accelerator.is_available(),
        # Stock TRL recomputes activations and so trains at two thirds of the speed; prefix tuning can't do it at all.
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "prediction_loss_only": True,
        # The loss is the completions' alone: a mixture of experts need not compute how evenly it uses them.
        "router_aux_loss_coef": 0.0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SFTConfig(**{**ours, **training.extra})


def _multiple(model: nn.Module, longest: int) -> int:
    """Lengths are padded to a multiple of this, if the model's context has room for it."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr,operator]
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0)
    return MULTIPLE if context is None or longest + MULTIPLE + virtual <= context else 1


class _Scalars(TensorBoardCallback):
    """TensorBoard's curves without the dump of all arguments, which names paths of this machine."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write nothing: the writer is open."""


def _tensorboard(folder: Path) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    return _Scalars(SummaryWriter(log_dir=str(folder)))


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in `folder`; one whose writing was interrupted is removed."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():
            logger.warning("removing %s, which was not written to its end", checkpoint)
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder))
