"""What the owner gives (owner.toml), written into the documents that show it.

python release/owner.py            writes the documents
python release/owner.py --check    ends with 1, and says what is missing or not written
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWNER = ROOT / "release/owner.toml"
DOCUMENTS = ("SECURITY.md", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/bug.md")
MARK = re.compile(r"(<!-- owner: (\w+) -->).*?(<!-- /owner -->)")


def read_owner() -> dict[str, str]:
    return {name: str(value) for name, value in tomllib.loads(OWNER.read_text("utf-8")).items()}


def filled(text: str, owner: Mapping[str, str]) -> str:
    """A document with the owner's values between its marks, or with what is missing."""

    def fill(mark: re.Match[str]) -> str:
        missing = f"**not given yet** (`release/owner.toml`: `{mark[2]}`)"
        return f"{mark[1]}{owner[mark[2]] or missing}{mark[3]}"

    return MARK.sub(fill, text)


def with_urls(pyproject: str, owner: Mapping[str, str]) -> str:
    """pyproject.toml with the project's addresses, as far as they are given."""
    urls = [f'{name.title()} = "{owner[name]}"' for name in ("repository", "documentation")]
    given = [line for line in urls if not line.endswith('""')]
    pyproject = re.sub(r"\[project\.urls\]\n(?:.+\n)*\n", "", pyproject)
    table = "\n".join(["[project.urls]", *given, "", ""]) if given else ""
    return pyproject.replace("[project.scripts]\n", f"{table}[project.scripts]\n")


def documents(owner: Mapping[str, str]) -> dict[Path, str]:
    """What each document should be."""
    found = {ROOT / name: filled((ROOT / name).read_text("utf-8"), owner) for name in DOCUMENTS}
    pyproject = ROOT / "pyproject.toml"
    return {**found, pyproject: with_urls(pyproject.read_text("utf-8"), owner)}


def main() -> int:
    owner = read_owner()
    if sys.argv[1:] != ["--check"]:
        for path, text in documents(owner).items():
            path.write_text(text, "utf-8")
        return 0
    found = [f"release/owner.toml: {name} is missing" for name, value in owner.items() if not value]
    for path, text in documents(owner).items():
        if path.read_text("utf-8") != text:
            found.append(f"{path.name}: run python release/owner.py")
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
