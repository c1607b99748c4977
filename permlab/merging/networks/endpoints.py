"""Train the networks to be merged: `train_endpoint(model, data, seed=1, epochs=20).state`.

An endpoint is a state dict with a record of where it came from. Three seeds are kept apart: the initial weights, the
order of the batches, and (in `ImageData.share`) the choice of the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from permlab.data.images import ImageData
from permlab.diverged import check_losses, check_weights
from permlab.errors import check_range
from permlab.matching.weight import Progress
from permlab.merging.measure.evaluate import batches_of, labels_of, logits_of, score_logits
from permlab.merging.table import OPTIMIZERS, SCHEDULES
from permlab.models.vision import build_vision_model
from permlab.threads import for_work, macs_of

LARGE = 1024
"""Pixels of a picture from which on convolutions are trained with the channels innermost in memory: ResNet-20 takes a
fifth to a third less time on 32 x 32 pixels. Smaller ones keep the order in which their sums always were taken."""


@dataclass
class Endpoint:
    """A trained network.

    Attributes:
        state: its tensors, in evaluation form.
        labels: class numbers it was trained on.
        provenance: how it came to be (network, seeds, data, optimizer), for the record of every result.
        history: one row per epoch: epoch, loss (mean training loss in nats).
        metrics: train_loss, train_accuracy, test_loss, test_accuracy on its own labels at the end; seconds.
    """

    state: dict[str, Tensor]
    labels: list[int]
    provenance: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def initial_state(name: str, data: ImageData, seed: int, **options: Any) -> dict[str, Tensor]:
    """Freshly initialised tensors of `build_vision_model(name, ...)`: a start, and the untrained control.

    torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_vision_model(name, shape=data.shape, classes=data.classes, **options)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def train_endpoint(
    model: nn.Module,
    data: ImageData,
    *,
    start: dict[str, Tensor],
    epochs: int = 20,
    batch_size: int = 64,
    rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    schedule: str = "constant",
    seed: int = 0,
    outputs: Sequence[int] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Endpoint:
    """Train from `start` on the training images with cross-entropy.

    Args:
        model: a module of the architecture; its tensors are overwritten.
        data: as cut by `label_split` and `ImageData.share`.
        start: initial tensors (`initial_state`, or an ancestor to fine-tune from).
        epochs, batch_size, rate, weight_decay: the usual; Adam's weight decay is an L2 penalty.
        optimizer, schedule: adam, or sgd with momentum 0.9; constant, or cosine to 0 over the run.
        seed: of the order of the batches.
        outputs: outputs of the head that take part, one per class trained on: a task's own head inside a larger one.
            Default all.
        provenance: added to the endpoint's own record.
        progress: called with (epochs done, epochs).
        should_stop: asked after every epoch; true ends training there.

    Raises:
        UserError: a value out of range.
        DivergedError: the loss, or a weight, left the finite numbers.
    """
    make, share = OPTIMIZERS.check("optimizer", optimizer).load(), SCHEDULES.check("schedule", schedule).load()
    for key, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_range(key, value, 1)
    check_range("rate", rate, 0, open_interval=True)
    begin = time.perf_counter()
    model.to(memory_format=layout_of(data))  # type: ignore[call-overload]  # missing in torch's stubs
    model.load_state_dict(start)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    steps: torch.optim.Optimizer = make(model.parameters(), rate, weight_decay)
    shares = LambdaLR(steps, lambda epoch: float(share(epoch, epochs)))
    history: list[dict[str, float]] = []
    macs = macs_of(model, data.x_train[:1].to(next(model.parameters()).device)) * batch_size
    for epoch in range(epochs):
        with for_work(macs):
            losses = _epoch(model, steps, data, batch_size, generator, outputs)
        check_losses([[value] for value, _ in losses], len(losses) * epoch + 1, f"lower rate={rate:g}")
        loss = sum(value * size for value, size in losses) / sum(size for _, size in losses)
        shares.step()
        history.append({"epoch": float(epoch + 1), "loss": loss})
        if progress is not None:
            progress(epoch + 1, epochs)
        if should_stop is not None and should_stop():
            break
    record = {
        "data": f"{data.name}: {data.note}", "samples": len(data.x_train), "epochs": len(history), "order_seed": seed,
        "batch_size": batch_size, "rate": rate, "weight_decay": weight_decay, "optimizer": optimizer,
        "schedule": schedule, **(provenance or {}),
    }  # fmt: skip
    check_weights(model.state_dict().values(), len(history) * len(losses), f"lower rate={rate:g}")
    return _finish(model, data, record, history, begin, outputs)


def layout_of(data: ImageData) -> torch.memory_format:
    """Order of the entries in memory that a network of convolutions trains fastest with on such pictures."""
    return torch.channels_last if data.x_train[0, 0].numel() >= LARGE else torch.contiguous_format


def adam(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam with an L2 penalty."""
    return torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay)


def sgd(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9."""
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=weight_decay)


def constant(epoch: int, epochs: int) -> float:
    """The whole rate throughout."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def _own(logits: Tensor, y: Tensor, outputs: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """The outputs that take part, and the labels as numbers among them."""
    if outputs is None:
        return logits, y
    index = torch.tensor(list(outputs), device=y.device)
    return logits[:, index], (y[:, None] == index).int().argmax(1)


def _finish(
    model: nn.Module,
    data: ImageData,
    record: dict[str, Any],
    history: list[dict[str, float]],
    begin: float,
    outputs: Sequence[int] | None,
) -> Endpoint:
    """Score the trained network on its own labels and take its tensors along."""
    model.eval()
    # Contiguous, whatever the network was trained with: safetensors writes nothing else.
    state = {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
    }
    device = next(model.parameters()).device
    found = Endpoint(state, sorted(data.y_train.unique().tolist()), record, history)
    for half, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        if len(x):
            batches = batches_of(x.to(device), y.to(device))
            score = score_logits(*_own(logits_of(model, state, batches), labels_of(batches), outputs))
            found.metrics |= {f"{half}_loss": score.loss, f"{half}_accuracy": score.accuracy}
    found.metrics["seconds"] = time.perf_counter() - begin
    return found


def _epoch(
    model: nn.Module,
    steps: torch.optim.Optimizer,
    data: ImageData,
    batch_size: int,
    generator: torch.Generator,
    outputs: Sequence[int] | None,
) -> list[tuple[float, int]]:
    """One pass in random order; the mean loss and size of every batch.

    A last batch of one is left out: BatchNorm cannot use it.
    """
    order = torch.randperm(len(data.x_train), generator=generator)
    losses: list[tuple[float, int]] = []
    device, layout = next(model.parameters()).device, layout_of(data)
    for chosen in order.split(batch_size):
        if len(chosen) == 1 and losses:
            continue
        x, y = data.x_train[chosen].to(device), data.y_train[chosen].to(device)
        loss = functional.cross_entropy(*_own(model(x.contiguous(memory_format=layout)), y, outputs))
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append((float(loss.detach()), len(chosen)))
    return losses
