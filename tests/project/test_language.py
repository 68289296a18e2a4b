"""Constructions that sources do not use, and documents rarely.

Each has a plainer form that a reader from any language understands at once; see
docs/adr/0004-plain-english.md.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.support.documents import ROOT

# Construction -> what to write instead.
UNUSED = {
    r"\bstands?\b|\bstood\b": "is, are, was",
    r"(?:[.:;,] |\b(?:by|of|to|for|from|and|but|or) )[Ww]ho(?:ever)?\b": "the caller, the node ...",
    r"\b(?:no|some|any|every)body\b": "the node, the store, the browser, the user",
    r"\b(?:that|another|the|this|each|which|older|newer) ones?\b": "the noun",
    r"\bso (?:many|long|often|much)\b(?! as)": "as many, as long as; at most N",
    r", for (?:it|they|the|he|no|only|making|a|an|there|their|to|none) ": "because",
    r"\btells?\b|\btold\b": "reports, returns, notifies",
    r"\bby (?:itself|themselves|himself)\b": "automatically; alone",
    r"\bg(?:o|oes) on\b": "continues",
    r"\b(?:ours|of our own|of its own|of their own)\b": "local; a separate",
    r"\banew\b": "again",
    r"\b(?:he|him|his)\b": "they, or the noun",
}
PATTERNS = {re.compile(pattern): instead for pattern, instead in UNUSED.items()}


def sources() -> Iterator[Path]:
    for folder in ("sealedstate", "middleware"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The comments and the texts of a module: (line, text)."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def uses(source: str) -> Iterator[str]:
    for line, text in texts(source):
        for pattern, instead in PATTERNS.items():
            found = pattern.search(" ".join(text.split()))
            if found is not None:
                yield f"{line}: {found.group().strip()!r}; write: {instead}"


def test_source_uses_none_of_the_constructions() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{use}"
        for path in sources()
        for use in uses(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


def test_documents_use_them_at_most_ten_times_in_ten_thousand_words() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    documents.remove(ROOT / "CHANGELOG.md")
    text = "\n".join(document.read_text("utf-8") for document in documents)
    found = sum(len(pattern.findall(text)) for pattern in PATTERNS)
    assert found <= len(text.split()) / 1000


def test_construction_is_found_in_comment_docstring_and_message() -> None:
    source = '"""It stands here."""\n# It goes on.\nraise ValueError("nobody may seal")\n'
    assert [use.partition(":")[0] for use in uses(source)] == ["2", "1", "3"]
    assert not list(uses('"""The store keeps it as long as the session lives."""\n'))
