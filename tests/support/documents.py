"""Documents of docs/ as data: blocks between marks, tables and code."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCS", "ROOT", "Document"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Document:
    """A document of docs/. A mark is an HTML comment; ``<!-- /mark -->`` ends its block."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text("utf-8")

    def blocks(self, mark: str) -> list[str]:
        """The blocks of this mark, without their fences."""
        end = re.escape(mark.split(":")[0])
        pattern = rf"<!-- {re.escape(mark)} -->\n(.*?)\n?<!-- /{end} -->"
        found = re.findall(pattern, self.text, re.DOTALL)
        assert found, f"no block is marked {mark!r}"
        return [re.sub(r"^```\w*$\n?", "", block, flags=re.MULTILINE) for block in found]

    def block(self, mark: str) -> str:
        (only,) = self.blocks(mark)
        return only

    def table(self, mark: str) -> dict[str, list[str]]:
        """The rows of the block's table, without its head: first cell -> the others."""
        lines = self.block(mark).splitlines()[2:]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        found = {row[0].strip("`"): row[1:] for row in rows}
        assert len(found) == len(rows), f"a row of {mark!r} is there twice"
        return found

    def code(self, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)
