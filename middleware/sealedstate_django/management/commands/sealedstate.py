"""``manage.py sealedstate ...``: the command line of sealedstate with the project's settings."""

from __future__ import annotations

import sys
from argparse import REMAINDER
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandParser

from sealedstate.cli import command_for

from ..._keeper import read_settings


class Command(BaseCommand):
    """Runs one command of sealedstate, such as ``keys``, ``sessions`` or ``store``."""

    help = "Keys, stores and sessions of sealedstate, with the settings of this project."
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        # All options are those of sealedstate, also --help.
        self.handle(arguments=argv[2:], prog_name=f"{argv[0]} {argv[1]}")

    def handle(self, *args: Any, **options: Any) -> None:
        prog_name = options.get("prog_name", "manage.py sealedstate")
        command = command_for(read_settings())
        try:
            command.main([*args, *options["arguments"]], prog_name=prog_name)
        except SystemExit as end:
            if end.code or "prog_name" in options:
                sys.exit(end.code)
