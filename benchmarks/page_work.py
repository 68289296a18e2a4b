"""A page of other work, between two calls that are timed: `make_page`.

It is what an application does besides its session: a list of 25 items as HTML, a JSON document, a
form and a regular expression. With Jinja installed, Jinja makes the HTML.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from urllib.parse import parse_qs, urlencode

ITEMS = [
    {"id": number, "name": f"Item <{number}>", "price": 199 + 7 * number, "tags": ["a", "b"]}
    for number in range(25)
]
TEMPLATE = """<ul>{% for item in items %}<li class="{{ loop.cycle('odd', 'even') }}">
{{ item.id }}: {{ item.name }} {% if item.price > 250 %}{{ item.price }}{% endif %}
{{ item.tags | join(', ') }}</li>{% endfor %}</ul>"""
_TAG = re.compile(r"<(\w+)[^>]*>([^<]*)")


def make_page() -> Callable[[], object]:
    """The work of one page."""
    try:
        jinja = import_module("jinja2")
    except ImportError:
        render: Callable[..., str] = _render
    else:
        render = jinja.Environment(autoescape=True).from_string(TEMPLATE).render

    def page() -> object:
        text = render(items=ITEMS)
        document = json.loads(json.dumps({"items": ITEMS, "at": datetime.now(UTC).isoformat()}))
        form = parse_qs(urlencode({item["name"]: item["id"] for item in document["items"]}))
        return len(_TAG.findall(text)), sorted(form)

    return page


def _render(items: list[dict[str, object]]) -> str:
    lines = (
        f"<li>{html.escape(str(item['name']))} {item['price']:>9} {item['tags']!r}</li>"
        for item in items
    )
    return "<ul>" + "\n".join(lines) + "</ul>"
