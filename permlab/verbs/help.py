"""`permlab --help`, and the keys of what is named before it: `permlab task=spt model=llama-1b --help`.

Printed from the dataclasses, the YAML of the options and the tables of names, folded to the width of the terminal,
without loading anything that computes.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from permlab import registry, shipped
from permlab.config import ReportSettings, RootSchema, RunConfig
from permlab.errors import UserError, did_you_mean
from permlab.keys import Key, keys_of, text_of
from permlab.listing import GROUPS, METHODS, purpose
from permlab.version import __version__

INDENT = 6
BESIDE, NAMES = 43, 23
"""Columns at which the usage says what a command does, and the list of tasks what a task is about."""
NARROWEST = 30
"""Columns that a text beside another one needs; with fewer it stands below."""
BREAKS = re.compile(r"(\s+|(?<=,)(?=\S))")
"""Where a line may end: at spaces, and after the commas of a list that has none."""


@dataclass(frozen=True)
class Line:
    """Text that is folded to a width.

    Attributes:
        text: indented by `first`, and by `rest` where it goes on.
        about: stands beside it, from the column `beside` on, or below.
        key: whether it is the line of a key.
    """

    text: str = ""
    first: int = 0
    rest: int = 0
    about: str = ""
    beside: int = 0
    key: bool = False

    def folded(self, width: int) -> list[str]:
        """Return lines of at most `width` columns."""
        if not self.about:
            return wrapped(self.text, width, self.first, self.rest)
        if width - self.beside < NARROWEST:
            return [*wrapped(self.text, width, self.first, self.rest), *wrapped(self.about, width, INDENT, INDENT)]
        return wrapped(f"{self.text:<{self.beside - self.first}}{self.about}", width, self.first, self.beside)


def wrapped(text: str, width: int, first: int, rest: int) -> list[str]:
    """Return a text in lines of at most `width` columns, indented by `first` and `rest`; long lists break at commas."""
    if first + len(text) <= width:
        return [" " * first + text]
    wrapper = textwrap.TextWrapper(
        width, initial_indent=" " * first, subsequent_indent=" " * rest, break_on_hyphens=False
    )
    wrapper.wordsep_simple_re = BREAKS
    return wrapper.wrap(text)


USAGE = (
    ("[KEY=VALUE ...]", "run one task"),
    ("-m KEY=A,B [...]", "sweep over values"),
    ("KEY=VALUE ... run.dry_run=true", "the plan, and whether it can start"),
    ("task=NAME --help", "the keys of a task; as well model=NAME, dataset=NAME, hardware, tracker, run, report"),
    ("ls [GROUP ...]", "what there is to choose"),
    ("show KEY=VALUE ...", "the composed configuration as a tree"),
    ("cp GROUP NAME FILE", "a copy of an option to change"),
    ("fetch KEY=VALUE ...", "download a model or data set ahead"),
    ("push RUN_DIR OWNER/NAME", "share a run's model on the hub"),
    ("resume RUN_DIR", "continue a run that was stopped or killed"),
    ("report [KEY=VALUE ...]", "finished runs on one page, with verdicts"),
    ("--config-dir DIR ...", "with options of your own beside these"),
    ("--version | --help | --cfg job | --hydra-help", ""),
)
"""What can stand behind `permlab`, and what it does."""

EXAMPLES = (
    "task=spt task.order=original",
    "-m task=spt task.order=original,spt seed=0,1,2 tracker=none",
    "task=spt model=llama-1b model.lora.rank=16 run.dry_run=true",
    "report report.watch=true",
)

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


def usage() -> list[Line]:
    """Return the lines of `permlab --help`."""
    counts = ", ".join(f"{listed} ({len(shipped.names(group))})" for listed, group in GROUPS.items())
    return [
        Line(f"permlab {__version__}: a command-line laboratory for permutations in deep learning"),
        Line(),
        Line("usage:"),
        *(Line(f"permlab {words}", 2, 4, about, BESIDE) for words, about in USAGE),
        Line(),
        Line("tasks (task=NAME; spt when none is given):"),
        *(Line(n, 2, 4, purpose(shipped.describe("task", n)), NAMES) for n in shipped.names("task")),
        Line(),
        Line("groups of `permlab ls`:"),
        Line(f"{counts}, {METHODS} (what can stand in their keys)", 2, 2),
        Line(),
        Line("examples:"),
        *(Line(f"permlab {words}", 2, 4) for words in EXAMPLES),
    ]


def topics(words: Sequence[str]) -> list[Line]:
    """Return the lines of the help on what is named: `task=spt`, `tracker=[wandb,mlflow]`, `run`, `hardware`, `ls`.

    Raises:
        UserError: an option or a word that is not known.
    """
    lines: list[Line] = []
    for word in words:
        group, equals, name = word.partition("=")
        if word in VERBS:
            lines += [Line(VERBS[word].format(groups="|".join([*GROUPS, METHODS])), 0, 4)]
            lines += [Line(), *of_section(word)] if word in SECTIONS else []
        elif equals and group in shipped.GROUPS:
            lines += of_options(group, name)
        elif group in SECTIONS:
            lines += of_section(group)
        elif group in shipped.GROUPS:
            lines += [Line(f"permlab {group}=NAME --help prints the keys of one; NAME is one of")]
            lines += [Line(", ".join(shipped.names(group)), 2, 2)]
        elif not equals and "." not in group:
            known = [*VERBS, *SECTIONS, *shipped.GROUPS]
            raise UserError(f"no help on '{word}'{did_you_mean(word, known)}; write task=NAME --help, or {word}=...")
        else:
            continue
        lines.append(Line())
    if not lines:
        raise UserError(f"no help on {' '.join(words)} alone: name the task, `permlab task=NAME --help`")
    return lines[:-1]


SECTIONS: dict[str, Any] = {"run": RunConfig, "report": ReportSettings}
"""Keys that belong to no option: `permlab run --help`."""


def of_section(section: str) -> list[Line]:
    """Return the keys of a section that no option chooses."""
    return [headed(f"keys of {section}"), *listing(keys_of(SECTIONS[section], section))]


def of_options(group: str, value: str) -> list[Line]:
    """Return what an option is and its keys, with the values that it gives them.

    Of a list, `[wandb,tensorboard]`, each; options that share their keys have them once, with the values of all.
    """
    names = [name.strip() for name in value.strip("[]").split(",")] if value.startswith("[") else [value]
    if group == "experiment":
        return [line for name in names for line in of_experiment(name)]
    sharing: dict[type, list[str]] = {}
    for name in names:
        sharing.setdefault(schema_of(group, name), []).append(name)
    lines: list[Line] = []
    for schema, options in sharing.items():
        values: dict[str, Any] = {}
        for name in options:
            lines += about_option(group, name)
            for key, each in shipped.values(group, name).items():
                values[key] = {**values.get(key, {}), **each} if isinstance(each, dict) else each
        found = list(keys_of(schema, group, values))
        if not found:
            lines += [Line("has no keys of its own", 2)]
        if group == "task" and "report" in options:
            found = list(keys_of(ReportSettings, "report"))
        lines += listing(iter(found))
    return lines


def about_option(group: str, name: str) -> list[Line]:
    """Return the heading of an option, and what it brings of other groups."""
    lines = [headed(f"{group}={name}: {purpose(shipped.describe(group, name))}")]
    brought = {key: value for key, value in shipped.brings(group, name).items() if value != "none"}
    if brought:
        named = " ".join(f"{key}={value}" for key, value in brought.items())
        lines += [Line(f"brings {named}; name another, with its own --help", 2, 2)]
    return lines


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


def of_experiment(name: str) -> list[Line]:
    """Return claim, rules, sweep and time of an experiment."""
    about = shipped.experiment(name)
    lines = [headed(f"experiment={name}: {about.get('claim', '')}")]
    for key in ("source", "acceptance", "published"):
        if about.get(key):
            lines += [Line(f"{key}: {about[key]}", 2, 4)]
    lines += [Line(f"sweep: {key}={value}", 2, 4) for key, value in (about.get("sweep") or {}).items()]
    if about.get("minutes"):
        lines += [Line(f"takes about {about['minutes']:g} minutes on 2 CPU cores", 2, 4)]
    return [*lines, Line(f"every key: permlab show experiment={name}", 2, 4)]


def headed(text: str) -> Line:
    """Return a heading."""
    return Line(text, 0, 2)


def listing(keys: Iterator[Key]) -> list[Line]:
    """Return the lines of keys; the key stands at the margin of two, what it means below."""
    lines = []
    for key in keys:
        lines += [Line(f"{key.path}={text_of(key.default)}  ({key.type})", 2, 4, key=True)]
        if key.about:
            lines += [Line(key.about, INDENT, INDENT)]
        if key.choices:
            more = f" (permlab ls {key.table})" if key.table else ""
            lines += [Line(f"one of {', '.join(key.choices)}{more}", INDENT, INDENT)]
    return lines
