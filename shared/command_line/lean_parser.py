"""A parser for programs that stay: ``argparse`` loads archives and compression, to ask for a width."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

_DEFAULT_COLUMNS = 80


class LeanParser(argparse.ArgumentParser):
    """An :class:`argparse.ArgumentParser` whose help is as wide as the terminal; so are its subparsers'."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - argparse's own options
        super().__init__(**{"formatter_class": _Formatter, **options})


class _Formatter(argparse.HelpFormatter):
    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as above
        super().__init__(*arguments, **{"width": _columns() - 2, **options})


def _columns() -> int:
    """Return the terminal's width as ``shutil.get_terminal_size`` does."""
    text = os.environ.get("COLUMNS", "")
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _DEFAULT_COLUMNS  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return _DEFAULT_COLUMNS
