"""`permlab cp experiment spt/people my/experiment/spt/mine.yaml`: a copy of an option, ready for `--config-dir my`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from permlab import shipped
from permlab.errors import UserError, did_you_mean
from permlab.storage.files import write_text

USAGE = (
    "usage: permlab cp {groups} NAME FILE, for example: permlab cp experiment spt/people my/experiment/spt/mine.yaml"
)
RENAMED = {"experiment": ("experiment",), "model": ("causal_lm",), "dataset": ()}
"""Groups whose `name:` is a label that the copy changes; of models those of these kinds, whose name means nothing."""


def copied(words: list[str]) -> list[str]:
    """Copy an option to a file of a folder for `--config-dir`, and return what to say about it.

    Raises:
        UserError: an unknown option; a file that is there, is no .yaml, lies in no folder of its group, or has the name
            of an option that permlab has already.
    """
    if len(words) != 3:
        raise UserError(USAGE.format(groups="|".join(shipped.GROUPS)))
    group, name, target = words[0], words[1], Path(words[2])
    if group not in shipped.GROUPS:
        raise UserError(
            f"cp: '{group}' is not a group{did_you_mean(group, shipped.GROUPS)} ({'|'.join(shipped.GROUPS)})"
        )
    source = shipped.file_of(group, name)
    folder, new = place(group, name, target)
    text = relabelled(group, name, new, source.read_text(encoding="utf-8"), folder)
    if target.exists() or target.is_symlink():
        raise UserError(f"cp: {target} exists and is not overwritten; name another file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        raise UserError(f"cp: {target} cannot be written ({error.strerror})") from None
    return [f"{target} is a copy of {group}={name}; change it, then:", f"  {next_command(group, new, folder)}"]


def place(group: str, name: str, target: Path) -> tuple[Path, str]:
    """Return the folder for `--config-dir` and the option's name there: `my/model/a.yaml` is `a` in `my`.

    Raises:
        UserError: with a file that would do.
    """
    example = f"permlab cp {group} {name} my/{group}/{name}-2.yaml"
    parents = [parent.name for parent in target.parents]
    if target.suffix != ".yaml" or group not in parents:
        raise UserError(
            f"cp: {target} must be a .yaml file in a folder named {group}, where --config-dir finds it: {example}"
        )
    root = target.parents[parents.index(group)]
    new = target.relative_to(root).with_suffix("").as_posix()
    if new in shipped.names(group):
        raise UserError(
            f"cp: {group}={new} is there already and would be taken instead; choose another name: {example}"
        )
    return root.parent, new


def relabelled(group: str, name: str, new: str, text: str, folder: Path) -> str:
    """Return the text of the copy: its first comment shows the new command, and its label is its own."""
    text = text.replace(f"{group}={name}", f"{group}={new}", 1)
    text = text.replace("# permlab ", f"# permlab --config-dir {shlex.quote(str(folder))} ", 1)
    kinds = RENAMED.get(group)
    if kinds is None or (group == "model" and shipped.kind(group, name) not in kinds):
        return text
    indent = "  " if group == "experiment" else ""
    text, found = re.subn(rf"(?m)^{indent}name: .*$", f"{indent}name: {new}", text, count=1)
    return text if found or group == "experiment" else f"{text.rstrip()}\nname: {new}\n"


def next_command(group: str, new: str, folder: Path) -> str:
    """Return a command that uses the copy as it is."""
    start = f"permlab --config-dir {shlex.quote(str(folder))}"
    chosen = shlex.quote(f"{group}={new}")
    return f"{start} {chosen} run.dry_run=true" if group in ("task", "experiment") else f"{start} show {chosen}"
