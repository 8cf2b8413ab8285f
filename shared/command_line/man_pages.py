"""Man pages, written from parsers: one for the program and one for each of its commands.

They carry no date and wrap nothing: the same parsers give the same bytes on every machine.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from shared.command_line.parser import Parser

_OPTION_GROUPS = {"positional arguments": "ARGUMENTS", "options": "OPTIONS"}
_HEADED = re.compile(r"([a-z][a-z0-9 ,\'.-]*):[ \n](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is documented.

    Args:
        name: As it is called.
        version: Stands at the foot of every page.
        summary: One line, for the page's name.
        parser: The whole command line's.
        commands: Each command's own parser, by the words that it is called with: ``build``, ``keys list``.
        summaries: One line for each command.
    """

    name: str
    version: str
    summary: str
    parser: Parser
    commands: Mapping[str, Parser]
    summaries: Mapping[str, str]

    def man_pages(self) -> Mapping[str, str]:
        """Return every page by its file's name, ``cpk-tool-build.1``."""
        whole = [*self._body(self.parser, "[--version] COMMAND …"), *self._commands()]
        pages = {f"{self.name}.1": self._page(self.name, self.summary, whole)}
        for name, parser in self.commands.items():
            title = self._title(name)
            body = [
                *self._body(parser, f"{name} {_synopsis(parser)}"),
                ".SH SEE ALSO",
                f".BR {self.name} (1)",
            ]
            pages[f"{title}.1"] = self._page(title, self.summaries[name], body)
        return pages

    def write_man_pages(self, folder: Path) -> None:
        """Write every page into ``folder``, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.man_pages().items():
            (folder / name).write_text(text, encoding="utf-8")

    def _title(self, command: str) -> str:
        return f"{self.name}-{command.replace(' ', '-')}"

    def _page(self, title: str, summary: str, body: list[str]) -> str:
        head = [
            f'.TH "{title.upper()}" 1 "" "{self.name} {self.version}" "User commands"',
            ".ad l",
            ".SH NAME",
            f"{_escaped(title)} \\- {_escaped(summary)}",
        ]
        return "\n".join([*head, *body]) + "\n"

    def _body(self, parser: Parser, usage: str) -> list[str]:
        lines = [".SH SYNOPSIS", f".B {self.name}", _escaped(usage), ".SH DESCRIPTION"]
        lines += _paragraphs(parser.description or "")
        for title, options in parser.declared_groups():
            shown = [option for option in options if not isinstance(option.choices, dict)]
            if shown:
                lines.append(f".SH {_escaped(_OPTION_GROUPS.get(title, title.upper()))}")
            for option in shown:
                lines += [".TP", _invocation(option), _escaped((option.help or "").replace("%%", "%"))]
        return lines + _sections(parser.epilog or "")

    def _commands(self) -> list[str]:
        lines = [".SH COMMANDS"]
        for name, summary in self.summaries.items():
            lines += [".TP", f".BR {_escaped(self._title(name))} (1)", _escaped(summary)]
        return lines


def _synopsis(parser: Parser) -> str:
    """Return what must be given, and that there are options."""
    options = [option for option in parser.declared() if option.option_strings]
    required = [f"{option.option_strings[0]} {_value(option)}" for option in options if option.required]
    arguments = [_value(option) for option in parser.declared() if not option.option_strings]
    return " ".join([*required, "[options]", *arguments])


def _invocation(option: argparse.Action) -> str:
    value = "" if option.nargs == 0 else f" \\fI{_escaped(_value(option))}\\fR"
    if not option.option_strings:
        return value.strip()
    return ", ".join(f"\\fB{_escaped(name)}\\fR{value}" for name in option.option_strings)


def _value(option: argparse.Action) -> str:
    if option.metavar is None and option.choices is not None:
        return "|".join(map(str, option.choices))
    return str(option.metavar or option.dest.upper())


def _sections(epilog: str) -> list[str]:
    """Turn each ``title: …`` paragraph of a help text's end into a section, its lines kept as they are."""
    lines: list[str] = []
    for paragraph in filter(None, re.split(r"\n(?=[a-z][^\n]*:(?:\s|$))", f"\n{epilog.strip()}")):
        match = _HEADED.fullmatch(paragraph.strip())
        title, text = (match[1], match[2]) if match is not None else ("notes", paragraph)
        kept = textwrap.dedent(text.strip("\n")).rstrip().split("\n")
        lines += [f".SH {_escaped(title.upper())}", ".nf", *map(_escaped, kept), ".fi"]
    return lines


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        lines += ([".PP"] if number else []) + [_escaped(line) for line in paragraph.split("\n")]
    return lines


def _escaped(line: str) -> str:
    """Return a line that roff takes as text."""
    text = line.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text
