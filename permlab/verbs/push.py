"""`permlab push RUN_DIR REPO [--private] [--dry-run]`: the model or adapter of a finished run, to the hub."""

from __future__ import annotations

from pathlib import Path

from permlab.errors import UserError, did_you_mean
from permlab.runs.console import console, print_table
from permlab.storage.files import read_json
from permlab.storage.sharing import Shared, check_repository, checked, upload

USAGE = "usage: permlab push RUN_DIR OWNER/NAME [--private] [--dry-run]"
FLAGS = ("--private", "--dry-run")
ARTIFACTS = ("model", "adapter")


def push(words: list[str]) -> int:
    """Check the run and its files, show them, and upload them unless it is a dry run.

    Raises:
        UserError: whatever keeps it from going up.
    """
    flags = [word for word in words if word.startswith("-")]
    places = [word for word in words if not word.startswith("-")]
    for flag in flags:
        if flag not in FLAGS:
            raise UserError(f"push: {flag} is not known{did_you_mean(flag, FLAGS)}; {USAGE}")
    if len(places) != 2:
        raise UserError(USAGE)
    run, repository = Path(places[0]), places[1]
    check_repository(repository)
    shared = checked(artifact_of(run))
    rows = [{"file": name, "size": readable(size)} for name, size in shared.sizes.items()]
    kind = "private" if "--private" in flags else "public"
    print_table(rows, f"{len(rows)} files, {readable(shared.bytes)}, to {repository} ({kind} where it is made anew)")
    say(shared)
    if "--dry-run" in flags:
        console().print("dry run: nothing was sent", markup=False)
        return 0
    page = upload(shared, repository, private="--private" in flags, message=f"{run.resolve().name} with permlab")
    console().print(f"uploaded to {page}", markup=False)
    return 0


def say(shared: Shared) -> None:
    """Print what one should know before it is public."""
    for note in shared.notes:
        console().print(f"note: {note}; it would be public", markup=False)


def artifact_of(run: Path) -> Path:
    """Return artifacts/model or artifacts/adapter of a finished run.

    Raises:
        UserError: no run directory, one that is not done or was a debug run, or one without a model.
    """
    result = read_json(run / "result.json")
    if not isinstance(result, dict):
        raise UserError(f"{run} is not a run directory: it has no result.json")
    status = result.get("status")
    if status != "done":
        remedy = f"`permlab resume {run}` finishes it" if status in ("running", "interrupted") else "only done ones are"
        raise UserError(f"{run} is {status} and is not shared; {remedy}")
    if result.get("debug"):
        raise UserError(f"{run} is a run of debug={result['debug']}, whose model is none; run it without debug")
    for name in ARTIFACTS:
        if (run / "artifacts").is_symlink() or not (run / "artifacts" / name).is_dir():
            continue
        return run / "artifacts" / name
    raise UserError(f"{run} has neither artifacts/model nor artifacts/adapter: there is nothing to share")


def readable(size: float) -> str:
    """Return bytes with a fitting unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
