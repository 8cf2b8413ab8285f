"""What the tool says, under its own name."""

from __future__ import annotations

from shared.command_line.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    USAGE,
    Messages,
    UsageError,
    exit_status,
    print_failure,
    print_fields,
    print_json,
    print_line,
    print_table,
    printable,
)

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "REFUSED",
    "USAGE",
    "UsageError",
    "exit_status",
    "print_failure",
    "print_fields",
    "print_json",
    "print_line",
    "print_table",
    "printable",
    "report",
    "report_error",
    "warn",
]

MESSAGES = Messages("cpk-tool")
report, report_error, warn = MESSAGES.report, MESSAGES.report_error, MESSAGES.warn
