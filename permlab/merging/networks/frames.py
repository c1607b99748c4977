"""Networks of different vocabularies in one: `permlab task=merge task.models=[A,B] task.tokenizer=union`.

    frame = plan_frame(checkpoints, Wanted("union", Path("scratch")))     # reads tokenizer.json only
    states = frame.mapped(names, states)                                  # views of files in Path("scratch")

Rows of embeddings are found by the token they stand for; `permlab.merging.networks.rows` has what becomes of those
that only some networks have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.merging.networks.rows import KnownRows
from permlab.merging.networks.vocabularies import (
    BASE,
    FILE,
    UNION,
    Vocabulary,
    Wanted,
    check_common,
    read_vocabularies,
    read_vocabulary,
)
from permlab.models.checkpoints import Checkpoint
from permlab.storage.files import replacing
from permlab.storage.tensors import OpenTensors, SafetensorsStream, read_header
from permlab.symmetry import row_ranges
from permlab.tables import Row

MARKS = ("Ġ", "▁")
"""What a token begins with in place of a space."""
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass
class Frame:
    """A common vocabulary, and where networks have its rows.

    Attributes:
        start: the tokenizer whose rows stay where they are.
        tokens: of every row; None where a row has none.
        rows: [networks, rows] of every network's embeddings, -1 where it has none; the ancestor last.
        names: of the networks, ancestor last.
        appended: tokens behind those of `start`, and the vocabulary that each comes from.
        ancestral: the last network is an ancestor.
        scratch, weights: of `Wanted`.
        changes: keys of config.json that change.
        lost: tokens of each network that the frame does not have.
        tokenizer: folder with the tokenizer of the frame.
        tensors: names of those that were mapped.
    """

    start: Vocabulary
    tokens: list[str | None]
    rows: Tensor
    names: list[str]
    appended: dict[str, Vocabulary]
    ancestral: bool
    scratch: Path
    weights: Sequence[float]
    changes: dict[str, Any] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    tokenizer: Path = Path()
    tensors: list[str] = field(default_factory=list)

    @property
    def known(self) -> KnownRows:
        """Which network has which row."""
        return KnownRows(self.rows >= 0, tuple(self.tensors), tuple(self.weights), self.ancestral)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the frame by where they come from, and tokens that it lost."""
        known = (self.rows >= 0).sum(0)
        named = torch.tensor([token is not None for token in self.tokens])
        whole = int(((known == len(self.rows)) & named).sum())
        return {
            "tokens": int(named.sum()),
            "of_all": whole,
            "of_some": int(named.sum()) - whole,
            "appended": len(self.appended),
            "unnamed_rows": int((~named).sum()),
            "lost": sum(self.lost),
        }

    def table(self) -> list[Row]:
        """One line per row: its token, where it comes from, and its number in every network."""
        places = self.rows.t().tolist()
        return [
            {"row": row, "token": token, "from": self._from(place), **{n: p for n, p in zip(self.names, place)}}
            for row, (token, place) in enumerate(zip(self.tokens, places))
        ]

    def _from(self, place: Sequence[int]) -> str:
        known = [name for name, number in zip(self.names, place) if number >= 0]
        return "all" if len(known) == len(place) else " ".join(known)

    def mapped(self, names: Sequence[str], states: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The networks with tensors `names` in the rows of the frame: views of files written here, piece by piece.

        Args:
            names: of tensors whose first axis is the vocabulary.
            states: networks, ancestor last.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.tensors = [name for name in names if name in states[0]]
        result = []
        for number, state in enumerate(states):
            path = self.scratch / f"vocabulary-{number}.safetensors"
            own = [name for name in names if name in state]
            shapes = {name: ((len(self.tokens), *state[name].shape[1:]), state[name].dtype) for name in own}
            with replacing(path) as part, SafetensorsStream(part, shapes) as out:
                for name in own:
                    out.put_rows(name, self._rows(number, [each[name] for each in states]))
            opened = OpenTensors(read_header(path))
            result.append({**state, **{name: opened[name] for name in own}})
        return result

    def _rows(self, number: int, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """Rows of one network's tensor.

        Those that it lacks are 0, which no matching sees: what they become is known in a common order of units only.
        Networks with an ancestor have its order, so that they are filled here.
        """
        shape = (len(self.tokens), *tensors[number].shape[1:])
        for start, stop in row_ranges(shape):
            places = self.rows[:, start:stop].clamp(min=0)
            if self.ancestral:
                found = [tensor[place] for tensor, place in zip(tensors, places)]
                yield self.known.filled(start, found)[number]
            else:
                mine = self.rows[number, start:stop] >= 0
                yield tensors[number][places[number]] * mine.view(-1, *[1] * (len(shape) - 1))


def plan_frame(checkpoints: Sequence[Checkpoint], wanted: Wanted, ancestral: bool = False) -> Frame | None:
    """The common vocabulary of networks; None where all have it already.

    Args:
        checkpoints: networks, ancestor last.
        wanted: which vocabulary.
        ancestral: the last one is an ancestor.

    Raises:
        UserError: a tokenizer is missing, networks without a common token, or a token that no network has a row for.
    """
    asked = wanted.tokenizer in (BASE, UNION)
    folder = (checkpoints[-1] if ancestral else checkpoints[0]).folder if asked else Path(wanted.tokenizer).expanduser()
    try:
        own, start = read_vocabularies(checkpoints), read_vocabulary(folder)
    except UserError:
        if asked:
            raise
        return None  # a tokenizer that goes with the merge as it is
    check_common(checkpoints, own)
    rows, appended = dict(start.rows), dict[str, Vocabulary]()
    following = max(rows.values(), default=-1) + 1
    for each in own if wanted.tokenizer == UNION else []:
        for token in sorted(each.rows.keys() - rows.keys(), key=each.rows.__getitem__):
            # Behind the last token, where there may be a row that no token has.
            rows[token], appended[token] = following, each
            following += 1
    sizes = [_size(each.config, each.folder, vocabulary) for each, vocabulary in zip(checkpoints, own)]
    given = next((size for each, size in zip(own, sizes) if each.folder == folder), 0)
    size = max(given, *(number + 1 for number in rows.values()))
    tokens: list[str | None] = [None] * size
    for token, number in rows.items():
        tokens[number] = token
    places = torch.tensor([_places(tokens, each) for each in own])
    _unnamed(tokens, own, sizes, places)
    if all(most == size and torch.equal(place, torch.arange(size)) for most, place in zip(sizes, places)):
        return None
    orphans = [number for number in range(size) if bool((places[:, number] < 0).all())]
    if orphans:
        raise UserError(
            f"{folder}: no network has an embedding for {len(orphans)} of its tokens, such as "
            f"{tokens[orphans[0]]!r}: give the tokenizer of one of them, or tokenizer=union"
        )
    names = [each.name for each in checkpoints]
    frame = Frame(start, tokens, places, names, appended, ancestral, wanted.scratch, wanted.weights)
    frame.lost = [len(each.rows.keys() - rows.keys()) for each in own]
    frame.changes = {"vocab_size": size} | special_ids(checkpoints[0].config, own[0], rows)
    return frame


def _size(config: Mapping[str, Any], folder: Path, vocabulary: Vocabulary) -> int:
    """Rows of a network's embeddings.

    Raises:
        UserError: its tokenizer has more.
    """
    size, most = int(config.get("vocab_size", 0)), max(vocabulary.rows.values(), default=-1) + 1
    if most > size:
        raise UserError(
            f"{folder}: its tokenizer has {most} tokens, the network {size}: copy the one that belongs to it"
        )
    return size


def _places(tokens: Sequence[str | None], vocabulary: Vocabulary) -> list[int]:
    return [-1 if token is None else vocabulary.rows.get(token, -1) for token in tokens]


def _unnamed(tokens: Sequence[str | None], own: Sequence[Vocabulary], sizes: Sequence[int], places: Tensor) -> None:
    """Rows that no network has a token for, in place: the row of that number, where it has no token there either.

    Embeddings are often longer than the vocabulary; such rows mean nothing, or a token that only another tokenizer has.
    """
    named = [set(each.rows.values()) for each in own]
    for number in (places < 0).all(0).nonzero().flatten().tolist():
        for k, (taken, most) in enumerate(zip(named, sizes)):
            if number < most and number not in taken:
                places[k, number] = number


def special_ids(config: Mapping[str, Any], own: Vocabulary, rows: Mapping[str, int]) -> dict[str, Any]:
    """Numbers of special tokens in a configuration, where they change with the vocabulary."""
    names = {number: token for token, number in own.rows.items()}
    changed: dict[str, Any] = {}
    for key in IDS:
        given = config.get(key)
        if isinstance(given, list):
            new: Any = [rows.get(names.get(each, ""), each) for each in given]
        else:
            new = given if given is None else rows.get(names.get(given, ""), given)
        if new != given:
            changed[key] = new
    return changed


def write_tokenizer(frame: Frame) -> None:
    """Make the tokenizer of a frame: that of `start`, or a copy in `scratch` with the appended tokens.

    Appended tokens become added tokens, which are looked for before a text is cut in any other way: with them comes no
    merge rule of the tokenizer that they are from.

    Raises:
        UserError: the tokenizer gives an appended token another row than expected.
    """
    if not frame.appended:
        frame.tokenizer = frame.start.folder
        return
    from tokenizers import AddedToken, Tokenizer
    from transformers import AutoTokenizer

    from permlab.models.quiet import quiet_transformers

    quiet_transformers()
    tokenizer: Any = AutoTokenizer.from_pretrained(frame.start.folder, local_files_only=True, trust_remote_code=False)
    decoders = {each.folder: Tokenizer.from_file(str(each.folder / FILE)).decoder for each in frame.appended.values()}
    known, written = set(frame.tokens), dict[str, str]()
    for token, source in frame.appended.items():
        flags = source.added.get(token)
        text = token if flags else spelled(token, decoders[source.folder])
        if text != token and text in known:
            text = token
        known.add(text)
        written[token] = text
        options = {
            key: value for key, value in (flags or {"normalized": False}).items() if key not in ("id", "content")
        }
        tokenizer.add_tokens([AddedToken(text, **options)], special_tokens=bool(options.get("special")))
    numbers = tokenizer.get_vocab()
    for row, named in enumerate(frame.tokens):
        if named is not None and numbers.get(written.get(named, named)) != row:
            raise UserError(
                f"{frame.start.folder}: token {named!r} has number {numbers.get(written.get(named, named))} when "
                f"transformers loads it, and {row} in {FILE}: save the tokenizer again with save_pretrained"
            )
    frame.tokenizer = frame.scratch / "tokenizer"
    tokenizer.save_pretrained(frame.tokenizer)


def spelled(token: str, decoder: Any) -> str:
    """What a token of a vocabulary looks like in a text (" the" for "Ġthe"); itself where it is no whole text."""
    if decoder is None:
        return token
    # Behind another word: decoders drop the space of the first.
    text = decoder.decode(["a", token])
    text = text[1:] if text.startswith("a") else ""
    if not token.startswith(MARKS):
        text = text.lstrip(" ")
    return token if not text.strip() or "\ufffd" in text else text
