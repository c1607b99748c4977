"""`permlab --help`, and the keys of what is named before it: `permlab task=spt model=llama-1b --help`.

Printed from the dataclasses, the YAML of the options and the tables of names, in at most 80 columns, without loading
anything that computes.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from permlab import registry, shipped
from permlab.config import ReportSettings, RootSchema, RunConfig
from permlab.errors import UserError, did_you_mean
from permlab.keys import Key, keys_of, text_of
from permlab.listing import GROUPS, METHODS, purpose
from permlab.version import __version__

WIDTH = 80
INDENT = 6
BREAKS = re.compile(r"(\s+|(?<=,)(?=\S))")
"""Where a line may end: at spaces, and after the commas of a list that has none."""

USAGE = """permlab {version}: a command-line laboratory for permutations in deep learning

usage: permlab [KEY=VALUE ...]            run one task
       permlab -m KEY=A,B [...]           sweep over values
       permlab KEY=VALUE ... run.dry_run=true     the plan, and whether it can start
       permlab task=NAME --help           the keys of a task; as well model=NAME,
                                          dataset=NAME, hardware, tracker, run, report
       permlab ls [GROUP ...]             what there is to choose
       permlab show KEY=VALUE ...         the composed configuration as a tree
       permlab cp GROUP NAME FILE         a copy of an option to change
       permlab fetch KEY=VALUE ...        download a model or data set ahead
       permlab push RUN_DIR OWNER/NAME    share a run's model on the hub
       permlab resume RUN_DIR             continue a run that was stopped or killed
       permlab report [KEY=VALUE ...]     finished runs on one page, with verdicts
       permlab --config-dir DIR ...       with options of your own beside these
       permlab --version | --help | --cfg job | --hydra-help

tasks (task=NAME; spt when none is given):
{tasks}

groups of `permlab ls`:
{groups}

examples:
  permlab task=spt task.order=original
  permlab -m task=spt task.order=original,spt seed=0,1,2 tracker=none
  permlab task=spt model=llama-1b model.lora.rank=16 run.dry_run=true
  permlab report report.watch=true
"""

VERBS = {
    "ls": "permlab ls [{groups} ...] lists what there is; a table of `permlab ls methods` by its name, too",
    "show": "permlab show KEY=VALUE ... prints the composed configuration, and what the command line changed in it",
    "cp": "permlab cp task|model|dataset|experiment|hardware|tracker NAME FILE copies an option to start from",
    "fetch": "permlab fetch model=NAME dataset=NAME [KEY=VALUE ...] downloads what a run would: HF_HUB_OFFLINE=1 then "
    "keeps the hub from being asked",
    "push": "permlab push RUN_DIR OWNER/NAME [--private] [--dry-run] uploads artifacts/model or artifacts/adapter of a "
    "finished run with its card; needs `hf auth login`",
    "resume": "permlab resume RUN_DIR continues a run that was stopped or killed, from its config.yaml and checkpoints",
    "report": "permlab report [KEY=VALUE ...] is task=report: the runs under run.root, or report.runs=[DIR,...], on "
    "one page; report.watch=true goes on until Ctrl-C",
    "help": "permlab help is permlab --help",
}
"""Verb -> what `permlab VERB --help` prints."""


def usage() -> str:
    """Return the text of `permlab --help`."""
    tasks = []
    for name in shipped.names("task"):
        tasks += wrapped(f"{name:<20} {purpose(shipped.describe('task', name))}", 2, 23)
    counts = ", ".join(f"{listed} ({len(shipped.names(group))})" for listed, group in GROUPS.items())
    groups = wrapped(f"{counts}, {METHODS} (what can stand in their keys)", 2, 2)
    return USAGE.format(version=__version__, tasks="\n".join(tasks), groups="\n".join(groups))


def wrapped(text: str, first: int, rest: int) -> list[str]:
    """Return a text in lines of at most `WIDTH` columns, indented by `first` and `rest`; long lists break at commas."""
    wrapper = textwrap.TextWrapper(
        WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
    wrapper.wordsep_simple_re = BREAKS
    return wrapper.wrap(text)


def topics(words: Sequence[str]) -> list[str]:
    """Return the lines of the help on what is named: `task=spt`, `model=gpt2`, `run`, `hardware`, `ls`.

    Raises:
        UserError: an option or a word that is not known.
    """
    lines: list[str] = []
    for word in words:
        group, equals, name = word.partition("=")
        if word in VERBS:
            lines += wrapped(VERBS[word].format(groups="|".join([*GROUPS, METHODS])), 0, 4)
            lines += ["", *of_section(word)] if word in SECTIONS else []
        elif equals and group in shipped.GROUPS:
            lines += of_option(group, name)
        elif group in SECTIONS:
            lines += of_section(group)
        elif group in shipped.GROUPS:
            lines += [f"permlab {group}=NAME --help prints the keys of one; NAME is one of"]
            lines += wrapped(", ".join(shipped.names(group)), 2, 2)
        elif not equals and "." not in group:
            known = [*VERBS, *SECTIONS, *shipped.GROUPS]
            raise UserError(f"no help on '{word}'{did_you_mean(word, known)}; write task=NAME --help, or {word}=...")
        else:
            continue
        lines.append("")
    if not lines:
        raise UserError(f"no help on {' '.join(words)} alone: name the task, `permlab task=NAME --help`")
    return lines[:-1]


SECTIONS: dict[str, Any] = {"run": RunConfig, "report": ReportSettings}
"""Keys that belong to no option: `permlab run --help`."""


def of_section(section: str) -> list[str]:
    """Return the keys of a section that no option chooses."""
    return [*headed(f"keys of {section}"), *listing(keys_of(SECTIONS[section], section))]


def of_option(group: str, name: str) -> list[str]:
    """Return what an option is and its keys, with the values that it gives them."""
    if group == "experiment":
        return of_experiment(name)
    header = shipped.describe(group, name)
    lines = headed(f"{group}={name}: {purpose(header)}")
    brought = {key: value for key, value in shipped.brings(group, name).items() if value != "none"}
    if brought:
        named = " ".join(f"{key}={value}" for key, value in brought.items())
        lines += wrapped(f"brings {named}; name another, with its own --help", 2, 2)
    found = list(keys_of(schema_of(group, name), group, shipped.values(group, name)))
    if not found:
        lines += ["  has no keys of its own"]
    if group == "task" and name == "report":
        found = list(keys_of(ReportSettings, "report"))
    return [*lines, *listing(iter(found))]


def schema_of(group: str, name: str) -> type:
    """Return the dataclass of an option.

    Raises:
        UserError: a YAML that names none.
    """
    fixed = {f.name: f.default_factory for f in dataclasses.fields(RootSchema)}
    if group in ("hardware", "tracker", "debug"):
        return fixed[group]  # type: ignore[return-value]  # the factory of a section is its dataclass
    kind, schemas = shipped.kind(group, name), registry.schemas(group)
    if kind not in schemas:
        path = shipped.file_of(group, name)
        raise UserError(f"{path}: its defaults must begin with /schema/{group}/KIND, KIND one of {', '.join(schemas)}")
    return schemas[kind]


def of_experiment(name: str) -> list[str]:
    """Return claim, rules, sweep and time of an experiment."""
    about = shipped.experiment(name)
    lines = headed(f"experiment={name}: {about.get('claim', '')}")
    for key in ("source", "acceptance", "published"):
        if about.get(key):
            lines += wrapped(f"{key}: {about[key]}", 2, 4)
    for key, value in (about.get("sweep") or {}).items():
        lines += wrapped(f"sweep: {key}={value}", 2, 4)
    if about.get("minutes"):
        lines += [f"  takes about {about['minutes']:g} minutes on 2 CPU cores"]
    return [*lines, f"  every key: permlab show experiment={name}"]


def headed(text: str) -> list[str]:
    """Return a heading."""
    return wrapped(text, 0, 2)


def listing(keys: Iterator[Key]) -> list[str]:
    """Return the lines of keys; the key stands at the margin of two, what it means below."""
    lines = []
    for key in keys:
        value = f"{key.path}={text_of(key.default)}"
        shown = f"{value}  ({key.type})"
        lines += [f"  {shown}"] if len(shown) + 2 <= WIDTH else wrapped(shown, 2, 4)
        if key.about:
            lines += wrapped(key.about, INDENT, INDENT)
        if key.choices:
            more = f" (permlab ls {key.table})" if key.table else ""
            lines += wrapped(f"one of {', '.join(key.choices)}{more}", INDENT, INDENT)
    return lines
