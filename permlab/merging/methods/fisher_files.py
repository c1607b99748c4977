"""Fisher averaging of networks of any size, with the information of every entry in files.

    permlab task=merge task.models=[A,B] task.combine=fisher 'task.fisher=[a.safetensors,b.safetensors]'
    permlab task=merge task.models=[A,B] task.combine=fisher dataset=jsonl dataset.path=texts.jsonl

A file has a tensor of every weight's name and shape, nothing negative; tensors that it lacks are averaged. Without
files `save_text_fisher` writes them: the diagonal of the Fisher matrix of a language model on texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.matching.activation import added
from permlab.merging.measure.evaluate import eval_mode, logits_in
from permlab.merging.numbers import numbers_of
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.streaming import Piece, Pieces, Rule
from permlab.storage.files import replacing
from permlab.storage.tensors import OpenTensors, SafetensorsStream, read_header
from permlab.symmetry import permuted_pieces, row_ranges, wide
from permlab.symmetry.functional import call, without_duplicates

FLOOR = 1e-6
"""Added to every entry's information, relative to the mean over all: where nobody knows anything, the average stays."""


class Information:
    """The Fisher information of all entries of all networks, piece by piece, in the common order of units.

    Args:
        read: the networks.
        paths: one file per network.

    Raises:
        UserError: not one file per network, or one of other shapes or with negative entries.
    """

    def __init__(self, read: Pieces, paths: Sequence[str]) -> None:
        if len(paths) != read.count:
            raise UserError(f"fisher has {len(paths)} files for {read.count} networks: give one each")
        self.read = read
        headers = [read_header(Path(path)) for path in paths]
        self.common = [name for name in read.floating if all(name in header for header in headers)]
        if not self.common:
            raise UserError(f"{paths[0]} has no tensor of the networks: is it Fisher information of theirs?")
        for path, header in zip(paths, headers):
            for name in self.common:
                if header[name].shape != tuple(read.states[0][name].shape):
                    raise UserError(
                        f"{path}: {name} has shape {list(header[name].shape)}, in the networks "
                        f"{list(read.states[0][name].shape)}: it belongs to other networks"
                    )
        self.files = [OpenTensors(header, keep=False) for header in headers]
        self.at: Iterator[list[Tensor]] = iter(())
        self.floor = self._floor(paths)

    def _floor(self, paths: Sequence[str]) -> float:
        total, entries = 0.0, 0
        for path, file in zip(paths, self.files):
            for name in self.common:
                value = file[name]
                for start, stop in row_ranges(value.shape):
                    part = wide(value[start:stop] if value.dim() else value)
                    if not bool((part >= 0).all()):  # NaN is not
                        raise UserError(f"{path}: {name} has negative or undefined entries, which no information has")
                    total += float(part.sum(dtype=torch.float64))
                entries += value.numel()
        return FLOOR * total / max(1, entries) or 1.0  # no information anywhere: any constant gives the average

    def of(self, piece: Piece) -> list[Tensor]:
        """Per network the information of a piece's entries; pieces of a tensor come in order."""
        if piece.start == 0:
            parts = [
                permuted_pieces(self.read.spec, piece.name, file[piece.name], moved, self.read.entries_of(piece.name))
                for file, moved in zip(self.files, self.read.permutations)
            ]
            self.at = ([wide(part) + self.floor for *_, part in rows] for rows in zip(*parts))
        return next(self.at)


def stream_fisher(read: Pieces, setting: Setting) -> Rule:
    """theta_j = sum_i w_i F_ij theta_ij / sum_i w_i F_ij (arXiv 2111.09832), with F from files."""
    information, find = Information(read, setting.fisher), numbers_of(setting, read.count)

    def rule(piece: Piece) -> Tensor:
        shares = mixture_weights(read.count, find(piece.name).weights or None)
        if piece.name not in information.common:
            return added(share * row for share, row in zip(shares, piece.rows))
        known = [share * each for share, each in zip(shares, information.of(piece))]
        return added(part * row for part, row in zip(known, piece.rows)) / added(known)

    return rule


def text_fisher(
    model: nn.Module, state: Mapping[str, Tensor], batches: Iterable[Any], *, texts: int = 256, seed: int = 0
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of a language model, per text: name -> tensor of its shape in float32.

    Every text takes one gradient of sum_t log p(y_t | x_<t) with y_t drawn from the model's own distribution. Given the
    text, gradients at different places are independent with mean 0, so that the square of their sum is, on average, the
    sum of their squares.

    Args:
        model: a module of the architecture, run in eval mode.
        state: its tensors.
        batches: mappings with input_ids, attention_mask and labels (-100 where there is nothing to predict).
        texts: most texts read.
        seed: of the draws.

    Raises:
        UserError: no text.
    """
    generator = torch.Generator().manual_seed(seed)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    whole = without_duplicates(model, state)
    inner = {n: v.detach().float().clone().requires_grad_() for n, v in whole.items() if n in names}
    others = {name: value for name, value in whole.items() if name not in names}
    total = {name: torch.zeros_like(value.detach()) for name, value in inner.items()}
    count = 0
    with eval_mode(model):
        for batch in batches:
            for at in range(min(len(batch["input_ids"]), texts - count)):
                part = {key: batch[key][at : at + 1] for key in ("input_ids", "attention_mask") if key in batch}
                logs = logits_in(call(model, {**inner, **others}, part))[0, :-1].log_softmax(-1)
                drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(logs.device)
                counts = (batch["labels"][at, 1:] != -100).to(logs)
                chosen = (logs.gather(1, drawn)[:, 0] * counts).sum()
                for name, value in zip(inner, torch.autograd.grad(chosen, list(inner.values()), allow_unused=True)):
                    if value is not None:
                        total[name] += value.square()
                count += 1
    if not count:
        raise UserError("Fisher information needs texts: give a data set")
    return {name: value / count for name, value in total.items()}


def save_fisher(path: Path, information: Mapping[str, Tensor]) -> Path:
    """Write what `Information` reads."""
    with (
        replacing(path) as part,
        SafetensorsStream(part, {n: (tuple(v.shape), v.dtype) for n, v in information.items()}) as file,
    ):
        for name, value in information.items():
            file.put(name, value)
    return path
