"""Training on ordered texts with transformers' Trainer; our part is the order of the data and a resume that is exact.

    trainer = make_trainer(model, pad_id, stream, folder, settings, callbacks);
    trainer.train(resume_from_checkpoint=...)

The stream holds all epochs as one sequence, so the Trainer sees a single pass in order: the batches of a resumed run
are those that the interrupted one would have seen.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from permlab import ranks
from permlab.diverged import check_losses, check_weights
from permlab.errors import UserError
from permlab.storage.files import sync, write_text
from permlab.storage.hashes import sha256_of
from permlab.storage.plain import LARGEST, UnreadableError, read_bytes
from permlab.text.batches import FILLS, Collator, PackingCollator
from permlab.text.settings import Pace, TrainingSettings
from permlab.text.table import SCHEDULES
from permlab.threads import for_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from permlab.text.masked import Masked
    from permlab.text.mixing import Mixed
    from permlab.text.orders import OrderedTexts

STEPS_BETWEEN_CHECKS = 20
"""On a GPU: reading every step's loss would make it wait each time."""
Stream: TypeAlias = "OrderedTexts | Mixed | Masked"
OnStep = Callable[[int, torch.Tensor, float], tuple[bool, bool]]
COMPLETE = "complete"
"""Marker file: a checkpoint folder without it was cut off while it was written."""


class Hooks(TrainerCallback):
    """Calls `on_step(step, loss, learning_rate)` after every step; the answer (save, stop) is obeyed.

    The loss is that of this step alone (nats per token, a tensor, so that nobody waits for the device unless it is
    read). The Trainer's own log averages over a window that a resumed run does not know.
    """

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step
        self.losses: list[torch.Tensor] = []
        self.unchecked: list[torch.Tensor] = []

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, lr_scheduler: Any = None, **_: Any
    ) -> Any:
        """Report the step and ask whether to save or stop.

        Raises:
            DivergedError: the loss, or a weight that would be saved, left the finite numbers.
        """
        loss = ranks.averaged(torch.stack(self.losses).sum())  # of all processes: each has scaled its share for a mean
        self.losses.clear()
        self.unchecked.append(loss)
        if loss.device.type == "cpu" or len(self.unchecked) >= STEPS_BETWEEN_CHECKS:
            self.check(args, state)
        rate = float(lr_scheduler.get_last_lr()[0])
        save, stop = ranks.told(lambda: self.on_step(state.global_step, loss, rate))
        if save or state.global_step >= state.max_steps:
            self.check(args, state, model)
        control.should_save = control.should_save or save
        control.should_training_stop = control.should_training_stop or stop
        return control

    def check(self, args: Any, state: Any, model: Any = None) -> None:
        """Check the losses that were not read yet, and the weights of `model`."""
        remedy = f"lower learning_rate={args.learning_rate:g}"
        if self.unchecked:
            losses = torch.stack(self.unchecked)[:, None].tolist()
            self.unchecked.clear()
            check_losses(losses, state.global_step + 1 - len(losses), remedy)
        if model is not None:
            check_weights(model.parameters(), state.global_step, remedy)


class Share(Dataset[dict[str, Any]]):
    """The rows of a stream that one of several processes trains on: its part of every batch, so that all processes
    together see the batches of one. The last batch may be short: a process that has no row of it gets one that fills.
    """

    def __init__(self, stream: Stream, batch: int, place: int, count: int) -> None:
        self.stream, self.batch, self.place, self.rows = stream, batch, place, batch // count

    def __len__(self) -> int:
        """Rows of this process, those that fill included."""
        return -(-len(self.stream) // self.batch) * self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row."""
        step, row = divmod(index, self.rows)
        position = step * self.batch + self.place * self.rows + row
        return self.stream[position] if position < len(self.stream) else self.stream[0] | {FILLS: True}


class OrderedTrainer(Trainer):
    """A Trainer that reads the stream in order and marks a checkpoint complete only when all of it is on disk."""

    hooks: Hooks

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train with the threads that a step has work for."""
        stream: Any = self.train_dataset
        rows = self.args.per_device_train_batch_size  # of this process
        tokens = rows * trained_tokens(stream, 0, sample=64) / len(stream)
        model: Any = self.model
        parameters = sum(p.numel() for p in model.parameters())
        with for_work(3.0 * parameters * tokens):
            return super().train(*arguments, **options)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Train on one micro-batch and remember its share of the step's loss."""
        loss = super().training_step(*arguments, **options)
        self.hooks.losses.append(loss)
        return loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Say nothing about weights that are stored once because others are tied to them (lm_head.weight)."""
        model: Any = self.model
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        if load_result.missing_keys and not load_result.unexpected_keys and set(load_result.missing_keys) <= tied:
            model.tie_weights()
            return
        super()._issue_warnings_after_load(load_result)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        stream: Any = train_dataset if train_dataset is not None else self.train_dataset
        # The stream has shuffled every epoch itself; the Trainer's sampler would mix epochs and lose the exact resume.
        return SequentialSampler(stream)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's part of every batch; accelerate would hand out whole batches in turn."""
        if ranks.count() == 1:
            return super().get_train_dataloader()
        stream: Any = self.train_dataset
        rows = self.args.per_device_train_batch_size
        return DataLoader(
            Share(stream, rows * ranks.count(), ranks.place(), ranks.count()),
            rows,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if ranks.first():
            make_room(folder)
        super()._save_checkpoint(model, trial)
        if ranks.first():
            for path in [*folder.rglob("*"), folder]:
                sync(path)
            write_text(folder / COMPLETE, contents(folder))

    def _save_rng_state(self, output_dir: str) -> None:
        if ranks.count() == 1:
            super()._save_rng_state(output_dir)
            return
        with TemporaryDirectory() as own:
            super()._save_rng_state(own)
            written = {path.name: path.read_bytes() for path in Path(own).iterdir()}
        for each in ranks.collected(written):  # the first process alone writes into the run's directory
            for name, content in each.items():
                (Path(output_dir) / name).write_bytes(content)


def make_trainer(
    model: PreTrainedModel,
    pad_id: int,
    stream: Stream,
    folder: Path,
    settings: TrainingSettings,
    hooks: Hooks,
    *,
    seed: int = 0,
    workers: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    pace: Pace | None = None,
    kind: type[OrderedTrainer] | None = None,
) -> OrderedTrainer:
    """Return a Trainer over the whole stream, one pass.

    Args:
        model: a causal language model.
        pad_id: token that fills shorter texts; neither attended to nor learned.
        stream: all epochs, in order; `settings.epochs` and `max_tokens` are the stream's matter.
        folder: for checkpoints.
        settings: sizes, rates and schedule.
        hooks: asked after every step.
        seed: of dropout.
        workers: loader processes; the order does not depend on them.
        dtype: of the forward and backward pass.
        device: cpu, or where the accelerator is.
        pace: of `settings.used`; default that of a model from scratch.
        kind: `sharded.ShardedTrainer` for a model that `sharded.shard` has divided.

    Raises:
        UserError: an unknown schedule; packing with a kind of attention that takes no mask of its own.
    """
    attention = getattr(model.config, "_attn_implementation", None)
    if settings.pack and attention != "sdpa":
        raise UserError(
            f"pack={settings.pack} needs attention of the kind sdpa, this model has {attention}: use pack=0"
        )
    steps, pace = steps_of(stream, settings), pace or settings.used()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size // ranks.count(),
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=pace.learning_rate,
        lr_scheduler_type=SCHEDULES[settings.schedule].name,
        warmup_steps=int(settings.warmup * steps),
        weight_decay=pace.weight_decay,
        max_grad_norm=settings.clip,
        optim="adamw_torch_fused",
        adam_beta2=0.99,
        logging_strategy="no",
        save_strategy="no",
        save_total_limit=2,
        seed=seed,
        bf16=dtype is torch.bfloat16 and kind is None,  # a divided model does so itself
        fp16=dtype is torch.float16,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and ranks.count() > 1 else None,
        ddp_find_unused_parameters=False if ranks.count() > 1 else None,
        dataloader_num_workers=workers,
        dataloader_pin_memory=device.startswith("cuda"),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    collator = PackingCollator(pad_id, settings.pack) if settings.pack else Collator(pad_id)
    trainer = (kind or OrderedTrainer)(
        model=model, args=arguments, train_dataset=stream, data_collator=collator, callbacks=[hooks]
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.hooks = hooks
    return trainer


def steps_of(stream: Stream, settings: TrainingSettings) -> int:
    """Return the optimizer steps of one pass."""
    return -(-len(stream) // (settings.batch_size * settings.accumulate))


def trained_tokens(stream: Stream, start: int, sample: int = 2000) -> float:
    """Return the tokens from position `start` on, by the mean length of up to `sample` positions."""
    rest = len(stream) - start
    places = range(start, len(stream), max(1, rest // sample))
    return rest * sum(len(stream[i]["input_ids"]) for i in places) / max(1, len(places))


def weights_dtype(dtype: torch.dtype, *, frozen: bool = False, pure: bool = False) -> torch.dtype:
    """Return the number type of the weights.

    Trained weights are float32 whatever is computed in: a step of 2e-5 is less than the last of the 8 bits of a
    bfloat16 weight near 0.01 and would be rounded away. Frozen ones, below adapters, may be as short as what is
    computed in.

    Args:
        dtype: of the forward and backward pass.
        frozen: they are not trained.
        pure: the user wants bfloat16 weights.
    """
    return dtype if dtype is torch.bfloat16 and (frozen or pure) else torch.float32


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written completely and is as it was written, or None."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    numbered = [path for path in complete if path.name.partition("-")[2].isdecimal() and not path.is_symlink()]
    for path in sorted(numbered, key=lambda path: int(path.name.partition("-")[2][:18]), reverse=True):
        with suppress(OSError, UnreadableError):
            if any(file.stat().st_size > LARGEST for file in path.glob("*.json")):
                continue  # not the Trainer's: hashing it would take as long as whoever made it likes
            if read_bytes(path / COMPLETE).decode("utf-8", "replace") == contents(path):
                return path
    return None


def make_room(folder: Path) -> None:
    """Remove what lies where a checkpoint will be written: a save into it would follow the links in it."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def contents(checkpoint: Path) -> str:
    """Return the names of a checkpoint's files and the hash of all of them."""
    found = checkpoint.rglob("*")
    files = [path for path in found if path.is_file() and not path.is_symlink() and path.name != COMPLETE]
    names = sorted(str(path.relative_to(checkpoint)) for path in files)
    return "\n".join([*names, sha256_of(files), ""])
