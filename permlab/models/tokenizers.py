"""Tokenizers trained on a corpus in seconds: `tokenizer = train_tokenizer(texts, kind="word", vocab_size=8192)`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from permlab.errors import UserError
from permlab.models.table import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BOS, EOS, UNKNOWN, PAD = "<s>", "</s>", "<unk>", "<pad>"
SPECIAL = [PAD, BOS, EOS, UNKNOWN]
MARK = "▁"
# A word keeps the space mark before it; inside, it is cut where a capital follows a small letter, so that the two
# syllables of a symbolic word are two tokens. Digits and punctuation stand alone.
WORD_PIECES = r"▁?(?:[A-Z]?[^\W\d_A-Z]+(?:['’][^\W\d_]+)?|[A-Z]+|\d|[^\w\s▁]|_)|▁"


def train_tokenizer(texts: Iterable[str], kind: str = "word", vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer that decodes back to the text it encoded.

    Args:
        texts: the training corpus.
        kind: `word` (every word of the corpus is a token, most frequent first) or `bpe` (byte-level).
        vocab_size: the largest vocabulary, special tokens included.

    Raises:
        UserError: an unknown kind, or one that is not trained.
    """
    row = TOKENIZERS[kind]
    if not row.target:
        raise UserError(f"kind={kind} names a tokenizer that comes with a model and is not trained")
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=row.load()(texts, vocab_size),
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def word_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a word-level tokenizer; the vocabulary is sorted by count and then by text, so it is deterministic."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    splitting = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(WORD_PIECES), behavior="isolated"),
        ]
    )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitting.pre_tokenize_str(text))
    # A piece that stands inside a word or after a quote may start a text once units are rearranged.
    for piece in list(counts):
        if not piece.startswith(MARK):
            counts[MARK + piece] += 0
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - len(SPECIAL)]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = splitting
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return finish(backend)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    # SPT moves units to the front of a text: with the space their ids are those that they have inside.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return finish(backend)


def finish(backend: Tokenizer) -> Tokenizer:
    """Put the begin token before every text that is encoded with special tokens."""
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return backend
