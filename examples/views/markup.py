"""HTML from string templates: whatever is not HTML already is escaped. And how numbers read.

Knows escaping and the template files. Does not know what they say.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template


class Html(str):
    """Text that is HTML. Only this module and its templates make it."""

    __slots__ = ()


def fill(template: str, /, **values: object) -> Html:
    """`template` with its `$names` filled in."""
    return _filled(Template(template), values)


@dataclass(frozen=True, slots=True)
class Templates:
    """The template files of a directory."""

    directory: Path

    def fill(self, file: str, /, **values: object) -> Html:
        """The template `file` with its `$names` filled in."""
        return _filled(_template(self.directory / file), values)


def joined(pieces: Iterable[Html], between: str = "\n") -> Html:
    """The pieces one after another."""
    return Html(between.join(pieces))


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """The pairs for a <dl>."""
    return joined(
        fill("<div><dt>$name</dt><dd>$value</dd></div>", name=name, value=value)
        for name, value in pairs
    )


def counted(count: int, noun: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ago(seconds: int) -> str:
    """A time span for people, in its two largest units."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    units = [(hours, "h"), (minutes_left, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "0 s"


def _filled(template: Template, values: dict[str, object]) -> Html:
    return Html(template.substitute({name: _escaped(value) for name, value in values.items()}))


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))


@cache
def _template(path: Path) -> Template:
    return Template(path.read_text("utf-8"))
