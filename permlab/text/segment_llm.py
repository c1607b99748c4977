"""Segmentation by an assistant model: `LLMSegmenter(ServerAssistant("http://127.0.0.1:8000", "qwen"), "cache.jsonl")`.

The idea of arXiv 2403.00758: a language model marks the semantic units; `text.prompts` asks for them. Every answer is
kept in a JSONL file keyed by its content, so that a second run asks nothing and an interrupted one goes on; whether an
answer is right is for `segment.segment_corpus` to check.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.data.examples import Example
from permlab.data.texts.joining import normalise
from permlab.data.texts.presegmented import split_marked
from permlab.errors import UserError
from permlab.models.causal_lm_config import is_local
from permlab.storage.plain import UnreadableError, read_bytes
from permlab.text.prompts import MARKER, PROMPT_VERSION, Assistant, Failure
from permlab.text.segment import Progress, Proposal
from permlab.text.units import check_units, project_units

if TYPE_CHECKING:
    from permlab.data.table import DataRow
    from permlab.text.settings import SegmenterSettings

NO_MARKER = "no marker in the answer"
LARGEST_CACHE = 2**28
"""Bytes of a cache that is read: a million answers."""
EMPTY_ANSWER = "empty answer"
NO_ANSWER = "no answer from the assistant"


def parse_answer(answer: str, text: str, protected: Sequence[str] = ()) -> Proposal:
    """Find the units in a raw answer, whatever stands around them.

    Understood: an echo of the text, labels ("Output: ..."), code fences, quotes around all, stray markers, one unit per
    line with or without bullets or numbers, a JSON list, reasoning between `<think>` tags. The first reading that is a
    segmentation of `text` is taken, else the first reading, for the caller to reject with its reason.
    """
    body = re.sub(r"<think>.*?(?:</think>|$)", "", answer, flags=re.DOTALL)
    body = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith("```")).strip()
    if not body:
        return Proposal(reason=EMPTY_ANSWER)
    readings = [units for units in _readings(body) if len(units) > 1]
    for units in readings:
        if check_units(text, units, protected) is None:
            return Proposal(units)
    for units in readings:
        # Words first, spelling second: a reading that lost a full stop is better than the next reading of a worse kind.
        projected = project_units(text, units)
        if projected and len(projected) > 1 and check_units(text, projected, protected) is None:
            return Proposal(units)
    return Proposal(readings[0]) if readings else Proposal(reason=NO_MARKER)


def _readings(body: str) -> Iterator[tuple[str, ...]]:
    """Yield possible readings of an answer, the likeliest first."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    marked = [line for line in lines if len(split_marked(line, MARKER)) > 1 or MARKER in line.upper()]
    for line in [
        *reversed(marked),
        " ".join(lines) if marked else "",
    ]:  # an echoed demonstration comes before the answer
        unlabelled = re.sub(r"^[\w ]{1,30}:\s*", "", line)
        for form in dict.fromkeys((line, unlabelled, line.strip("\"'`“”*"), unlabelled.strip("\"'`“”*"))):
            yield split_marked(form, MARKER)
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        listed = None
    if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
        yield tuple(unit for item in listed if (unit := normalise(item)))
    bullets = [re.sub(r"^(?:[-*•]|\d{1,3}[.)])\s+", "", line) for line in lines]
    for chosen in (
        bullets,
        [new for old, new in zip(lines, bullets) if old != new],
    ):  # all lines, then the bullets only
        yield tuple(unit for item in chosen for unit in split_marked(item, MARKER))


class AnswerCache:
    """Answers in a JSON lines file, keyed by sha256 of (prompt version, model, text); safe to append to and to kill.

    Each answer is on disk before the next is asked for. A half-written last line of a killed run is passed over and
    closed, not repaired.
    """

    def __init__(self, path: str | Path | None, model: str) -> None:
        """Read the file.

        Args:
            path: the file; made with its folder at the first answer. None keeps answers in memory only.
            model: name of the assistant model.

        Raises:
            UserError: when the path is a folder or cannot be read.
        """
        self.path = Path(path) if path else None
        self.model = model
        self._answers: dict[str, str] = {}
        try:
            raw = read_bytes(self.path, LARGEST_CACHE) if self.path and os.path.lexists(self.path) else b""
        except OSError as error:
            raise UserError(f"answer cache {self.path} cannot be read: {error.strerror}") from None
        except UnreadableError as error:
            raise UserError(f"answer cache {self.path} cannot be read: {error}") from None
        self._open_line = bool(raw) and not raw.endswith(b"\n")
        for line in raw.split(b"\n"):
            try:
                row = json.loads(line)
                answer = row["answer"]
                answer.encode()
                self._answers[str(row["key"])] = answer
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # blank, half-written or no text: asked again

    def key(self, text: str) -> str:
        """Return the content key of one question."""
        return hashlib.sha256(json.dumps([PROMPT_VERSION, self.model, text]).encode()).hexdigest()

    def get(self, text: str) -> str | None:
        """Return the answer kept for `text`, or None."""
        return self._answers.get(self.key(text))

    def put(self, text: str, answer: str) -> None:
        """Keep an answer, on disk when this returns.

        Raises:
            UserError: when the file cannot be written.
        """
        key = self.key(text)
        self._answers[key] = answer
        if self.path is None:
            return
        row = json.dumps({"key": key, "prompt": PROMPT_VERSION, "model": self.model, "text": text, "answer": answer})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                stream.write(b"\n" * self._open_line + row.encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"answer cache {self.path} cannot be written: {error.strerror}") from None
        self._open_line = False


class LLMSegmenter:
    """Asks an assistant for the units of each text, through a cache.

    A text of one word is its own unit and not asked; equal texts are asked once.
    """

    name = "llm"

    def __init__(self, assistant: Assistant, cache: str | Path | None = None) -> None:
        self.assistant = assistant
        self.cache = AnswerCache(cache, assistant.name)
        self.asked = self.answered = self.cached = 0
        self.seconds = 0.0

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return what the assistant says about each text; `seed` is not used, decoding is greedy.

        Raises:
            UserError: when the assistant cannot be used at all; answers received before are in the cache.
        """
        texts = [normalise(example.text) for example in examples]
        # One word has one segmentation, and equal texts the same one: nothing to ask an assistant about.
        wanted = [text for text in dict.fromkeys(texts) if " " in text and self.cache.get(text) is None]
        repeats = Counter(texts)
        known = len(texts) - sum(repeats[text] for text in wanted)
        self.cached += known
        failures: dict[str, str] = {}
        done = known
        if progress:
            progress(done, len(texts))
        started = time.perf_counter()
        with contextlib.closing(self._answers(wanted)) as answers:  # an exception below cancels what is not asked yet
            for text, answer in answers:
                if isinstance(answer, Failure):
                    failures[text] = answer.reason
                else:
                    self.cache.put(text, answer)
                done += repeats[text]
                if progress:
                    progress(done, len(texts))
        self.seconds += time.perf_counter() - started
        self.asked += len(wanted)
        self.answered += len(wanted) - len(failures)
        if failures and len(failures) == sum(" " in text for text in repeats):
            raise UserError(f"the assistant answered none of {len(failures)} texts, last: {failures.popitem()[1]}")
        return [self._proposal(text, example, failures) for text, example in zip(texts, examples)]

    def _answers(self, texts: Sequence[str]) -> Generator[tuple[str, str | Failure], None, None]:
        """Yield (text, answer) for each text."""
        if texts:
            with contextlib.closing(self.assistant.answers(texts)) as answers:
                for index, answer in answers:
                    yield texts[index], answer

    def _proposal(self, text: str, example: Example, failures: dict[str, str]) -> Proposal:
        """Return the proposal for one text from its answer."""
        if " " not in text:
            return Proposal((text,) if text else ())
        answer = self.cache.get(text)
        if answer is None:
            return Proposal(reason=f"{NO_ANSWER}: {failures.get(text, 'not asked')}")
        return parse_answer(answer, text, example.protected)

    def stats(self) -> dict[str, float]:
        """Counts over all calls: texts asked, answered, known before, requests repeated, answers per second."""
        rate = self.answered / self.seconds if self.seconds else 0.0
        counts = {"asked": self.asked, "answered": self.answered, "cached": self.cached}
        return {**counts, "retries": self.assistant.retries_made, "answers_per_second": rate}


def make_llm(settings: SegmenterSettings, device: str, cache: str | None) -> LLMSegmenter:
    """For `SEGMENTERS`: ask a server, or a local model on `device`; answers are kept in a file."""
    assistant: Assistant
    if settings.base_url:
        from permlab.text.assistant_server import ServerAssistant

        key = settings.api_key_env
        assistant = ServerAssistant(
            settings.base_url, settings.model or "", api_key_env=key, concurrency=settings.concurrency
        )
    else:
        from permlab.text.assistant_local import LocalAssistant

        assistant = LocalAssistant.load(settings.path or "", device=device)
    return LLMSegmenter(assistant, settings.cache or cache)


def check_llm(settings: SegmenterSettings, data: DataRow, prefix: str) -> None:
    """Check that one assistant is named, with all that it needs; nothing is asked.

    Raises:
        UserError: naming the setting.
    """
    if bool(settings.path) == bool(settings.base_url):
        raise UserError(f"{prefix}name=llm needs either {prefix}path=DIR or {prefix}base_url=URL")
    if settings.path and is_local(settings.path) and not (Path(settings.path) / "config.json").is_file():
        raise UserError(f"{prefix}path={settings.path} is not a Hugging Face model directory: it has no config.json")
    if settings.base_url:
        from permlab.text.assistant_server import completions_url

        completions_url(settings.base_url, f"{prefix}base_url")
    if settings.base_url and not settings.model:
        raise UserError(f"{prefix}base_url needs {prefix}model=NAME")
    name = settings.api_key_env
    if name and not os.environ.get(name):
        raise UserError(f"{prefix}api_key_env={name}: that variable is not set; export {name}=... with the key")
