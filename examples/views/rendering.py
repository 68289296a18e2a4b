"""Pages from Jinja2 templates, and the filters that format numbers and times in them."""

from __future__ import annotations

import time
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHARED = Path(__file__).with_name("templates")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_environment(*directories: Path) -> Environment:
    """The templates of these directories, which may extend and import the shared ones."""
    environment = Environment(
        loader=FileSystemLoader([*directories, SHARED]),
        autoescape=True,  # text that a visitor typed is never markup
        undefined=StrictUndefined,  # a misspelt name raises instead of leaving a gap
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        thousands=format_thousands,
        counted=format_count,
        duration=format_duration,
        clock=format_clock,
        percent=format_percent,
    )
    return environment


def format_thousands(number: int) -> str:
    """``12,345``."""
    return f"{number:,}"


def format_count(count: int, noun: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: int) -> str:
    """``2 min 5 s``: the two largest units of a duration."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    units = [(hours, "h"), (minutes_left, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "0 s"


def format_clock(epoch_seconds: int) -> str:
    """``14:05``, in the time zone of this machine."""
    return time.strftime("%H:%M", time.localtime(epoch_seconds))


def format_percent(size: int, scale: int) -> str:
    """`size` as a share of `scale`, as SVG takes it: ``12.50%``."""
    return f"{100 * size / scale:.2f}%"
