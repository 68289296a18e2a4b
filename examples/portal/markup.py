"""HTML from string templates: whatever is not HTML already is escaped.

Knows escaping and the template files. Does not know what they say.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).with_name("templates")


class Html(str):
    """Text that is HTML. Only this module and its templates make it."""

    __slots__ = ()


def fill(template: str, /, **values: object) -> Html:
    """`template` with its `$names` filled in."""
    return _filled(Template(template), values)


def fill_file(name: str, /, **values: object) -> Html:
    """The template file `name` with its `$names` filled in."""
    return _filled(_template(name), values)


def joined(pieces: Iterable[Html], between: str = "\n") -> Html:
    """The pieces one after another."""
    return Html(between.join(pieces))


def _filled(template: Template, values: dict[str, object]) -> Html:
    return Html(template.substitute({name: _escaped(value) for name, value in values.items()}))


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))


@cache
def _template(name: str) -> Template:
    return Template((TEMPLATES / name).read_text("utf-8"))
