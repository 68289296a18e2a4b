"""Examples are what people copy: they import nothing private, and write HTML only in templates."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.documents import ROOT

MODULES = sorted((ROOT / "examples").rglob("*.py"))
PAGE = re.compile(r"</?(?:html|body|div|p|form|input|table|svg)\b")


def imported_names(path: Path) -> Iterator[str]:
    """The absolute imports of a module, as ``package.module.name``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_examples_import_nothing_private() -> None:
    private = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        for name in imported_names(path)
        if name.startswith("sealedstate") and "._" in name
    ]
    assert not private


def test_examples_build_no_html_in_python() -> None:
    assert not [path for path in MODULES if PAGE.search(path.read_text("utf-8"))]
