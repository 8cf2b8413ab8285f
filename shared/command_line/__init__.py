"""What the commands ``cpk-tool`` and ``edb`` share: how they parse, print, fail and document themselves.

:mod:`shared.command_line.parser` declares, :mod:`shared.command_line.running` turns errors into messages and
exit statuses, :mod:`shared.command_line.output` prints, :mod:`shared.command_line.man_pages` and
:mod:`shared.command_line.completion` write what the parsers say as man pages and as completion scripts.
"""
