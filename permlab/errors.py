"""What the user did wrong, in one or two lines: `permlab task=sptt` prints one of these and exits with 2.

Lines carry words of files and of command lines, so this is also where these are made fit to be shown: cut, control
characters escaped, secrets blotted out.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST_LINE = 300
MOST_LINES = 2
"""Of a message; what is longer loses its middle, because the remedy stands at the end."""

_HIDDEN = re.compile(
    # C0 and C1 but tab and line feed; marks, embeddings and isolates that turn the direction of writing; line
    # separators; invisible signs; halves of surrogate pairs; tags.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_SECRET = re.compile(
    # user:password@ (with or without a scheme); the value of a key in an address; what looks like a key itself.
    r"(?P<user>://|\b[\w.%+-]{1,64}:(?!//))[^\s/'\"]{1,256}@(?=[\w\[])"
    r"|(?P<field>[?&;][\w.-]{0,32}(?i:key|token|secret|passw(?:or)?d|auth|credential|sig|signature)=)[^\s&#;'\"]{1,2048}"
    r"|\b(?:hf_[A-Za-z0-9]{16,}|sk-(?=[\w-]*[0-9A-Z])[\w-]{16,}|gh[opsur]_\w{30,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})"
)


class UserError(Exception):
    """A mistake of the user: the message says what is wrong and how to mend it. Exit code 2, never a traceback."""

    def __str__(self) -> str:
        return as_lines(super().__str__())


class Interrupted(Exception):
    """SIGINT or SIGTERM was received and the state has been checkpointed. Exit code 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum

    def __reduce__(self) -> tuple[type, tuple[int]]:
        """Processes that work for another one raise it there."""
        return Interrupted, (self.signum,)


class DivergedError(Exception):
    """Training left the finite numbers: exit code 1. A run names its last good checkpoint before the `remedy`."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}")
        self.found, self.remedy = found, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """As of `Interrupted`."""
        return DivergedError, (self.found, self.remedy)


class Caution(UserWarning):
    """A result that stands, but was not fully decided by the data; `result.json` lists them under `warnings`."""


def caution(message: str) -> None:
    """Warn about a result; the line that is blamed is the one outside the function that calls this."""
    warnings.warn(message, Caution, stacklevel=3)


def visible(text: str) -> str:
    """Return a text in which nothing acts on a terminal or hides: control and bidirectional characters are escaped."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def blotted(text: str) -> str:
    """Return a text with `***` for passwords and keys in addresses, and for what looks like a key."""
    return _SECRET.sub(lambda found: f"{found['field']}***" if found["field"] else _blot(found), text)


def _blot(found: re.Match[str]) -> str:
    if found["user"] is None:
        return "***"
    return "://***@" if found["user"] == "://" else "***@"


def shown(text: str) -> str:
    """Return a text from elsewhere as it may be shown to people: `visible` and `blotted`."""
    return visible(blotted(text))


def shortened(text: str, most: int = 120) -> str:
    """Return a text whole, or its two ends."""
    return text if len(text) <= most else f"{text[: (most - 3) // 2]}...{text[-((most - 2) // 2) :]}"


def as_lines(text: str, most: int = LONGEST_LINE, lines: int = MOST_LINES) -> str:
    """Return a message from anywhere as at most `lines` lines of at most `most` characters, fit to be shown."""
    # Cut before and after: escaping is slow on a megabyte, and makes a text longer.
    found = [line for line in shortened(text, 8 * most * lines).split("\n") if line.strip()][:lines]
    return "\n".join(shortened(shown(line), most) for line in found)


def first_line(error: object, most: int = LONGEST_LINE) -> str:
    """Return the first line of an error's message, or its type where it has none, fit to be shown."""
    return as_lines(str(error).strip() or type(error).__name__, most, 1)


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises on a file of the user into one line: `{what} (reason): {remedy}`.

    For calls whose errors nobody has listed: what transformers raises on a config.json depends on the value in it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({first_line(error, 150)}): {remedy}") from error


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the option closest to `name`, or an empty string when none is close."""
    names = [str(option) for option in options]
    folded = {option.lower().replace("_", "-"): option for option in names}
    close = difflib.get_close_matches(name.lower().replace("_", "-"), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def check_choice(key: str, value: str, options: Iterable[str]) -> None:
    """Refuse a value of a plain key (`task.order=sptt`) that is not in the list.

    Raises:
        UserError: naming the key, the value, the closest option and all options.
    """
    names = list(options)
    if value not in names:
        raise UserError(f"{key}={value} is not known{did_you_mean(str(value), names)} (options: {', '.join(names)})")


def check_range(
    key: str, value: float, low: float | None = None, high: float | None = None, *, open_interval: bool = False
) -> None:
    """Refuse a number outside [low, high], or outside (low, high) with `open_interval`.

    Raises:
        UserError: naming the key, the value and the allowed range.
    """
    below = low is not None and (value <= low if open_interval else value < low)
    above = high is not None and (value >= high if open_interval else value > high)
    if not (below or above) and value == value:
        return
    if low is not None and high is not None:
        wanted = f"strictly between {low:g} and {high:g}" if open_interval else f"from {low:g} to {high:g}"
    elif low is not None:
        wanted = f"above {low:g}" if open_interval else f"at least {low:g}"
    else:
        wanted = f"below {high:g}" if open_interval else f"at most {high:g}"
    raise UserError(f"{key}={value:g} is out of range: it must be {wanted}")
