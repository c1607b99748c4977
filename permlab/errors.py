"""What the user did wrong, in one or two lines: `permlab task=sptt` prints one of these and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: the message says what is wrong and how to mend it. Exit code 2, never a traceback."""


class Interrupted(Exception):
    """SIGINT or SIGTERM was received and the state has been checkpointed. Exit code 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def first_line(error: BaseException, most: int | None = 300) -> str:
    """Return the first line of an error's message, or its type where it has none; at most `most` characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


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
