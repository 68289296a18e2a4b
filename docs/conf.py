"""The documentation as a site: `make docs`, which treats every warning as an error.

Nothing is loaded from other hosts, so the pages open from a folder without a network.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import sealedstate

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "sealedstate"
author = "sealedstate contributors"
project_copyright = author
release = version = sealedstate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["conf.py"]
highlight_language = "text"
default_role = "code"
smartquotes = False  # --config has two hyphens
nitpicky = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"sealedstate {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

TERM = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*):(?= )")

# Files of the root that the site shows, too: page -> file.
SHOWN = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "conduct": "CODE_OF_CONDUCT.md",
}


def show_root_file(app: Any, docname: str, source: list[str]) -> None:
    """Put a file of the root in the place of its page, and unlink what the site has not."""
    text = source[0]
    if docname in SHOWN:
        text = (ROOT / SHOWN[docname]).read_text("utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
        text = re.sub(r"\]\((?=[\w.]+/|[A-Z]+\.md|LICENSE)(?![a-z-]+\.md)", "](../", text)
        text = re.sub(r"\]\(\.\./(adr/)", r"](\1", text)
    for page, file in SHOWN.items():
        text = re.sub(rf"\]\((?:\.\./)+{re.escape(file)}", f"]({page}.md", text)
    # Sources are no pages: [`a`](../b) becomes `b`, [words](../b) becomes words (`b`).
    text = re.sub(r"\[`([^]]*)`\]\((?:\.\./)+([^)#]*)[^)]*\)", r"`\2`", text)
    text = re.sub(r"\[([^]]*)\]\((?:\.\./)+(?!adr/|\w+\.md)([^)#]+)[^)]*\)", r"\1 (`\2`)", text)
    source[0] = text


def write_api(app: Any) -> None:
    """A page for each package with what its public modules list in `__all__`."""
    public: dict[str, tuple[Path, list[str]]] = {}
    for root in (ROOT, ROOT / "middleware"):
        for path in sorted(root.glob("sealedstate*/**/*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            names = public_names(path)
            if names and "._" not in module and ".cli" not in module:
                public[module] = path, names
    pages: dict[str, list[str]] = {}
    for module, (path, names) in public.items():
        # A name that several modules list is described once, where it is from.
        elsewhere = {
            name: source
            for name, source in imported_names(module, path).items()
            if name in names and name in public.get(source, (path, []))[1]
        }
        page = ".".join(module.split(".")[:2])
        pages.setdefault(page, []).append(entry(module, elsewhere))
    (DOCS / "api").mkdir(exist_ok=True)
    for page, entries in pages.items():
        heading = [title(page)] if entries[1:] else []
        write_if_changed(DOCS / "api" / f"{page}.rst", "\n".join([*heading, *entries]))
    listed = sorted(pages, key=lambda page: (page != "sealedstate", page))
    toctree = "\n".join([".. toctree::", "   :maxdepth: 1", "", *(f"   {page}" for page in listed)])
    words = "What each public module lists in its ``__all__``, from its docstrings.\n"
    write_if_changed(DOCS / "api/index.rst", f"{title('Python API')}\n{words}\n{toctree}\n")


def public_names(path: Path) -> list[str]:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def imported_names(module: str, path: Path) -> dict[str, str]:
    """The names that a module imports by `from`, with the module that it names."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            found.update({each.asname or each.name: source for each in node.names})
    return found


def title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def entry(module: str, elsewhere: Mapping[str, str]) -> str:
    lines = [title(module, "-"), f".. automodule:: {module}", "   :imported-members:"]
    if elsewhere:
        names = sorted(elsewhere)
        lines.append(f"   :exclude-members: {', '.join(names)}")
        links = (f":py:obj:`{name} <{elsewhere[name]}.{name}>`" for name in names)
        lines += ["", f"Also here: {', '.join(links)}."]
    return "\n".join(lines) + "\n"


def as_restructured_text(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: what is indented in them is shown as it is."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(map(restructured, paragraphs)).splitlines()


def restructured(paragraph: str) -> str:
    lines = [line for line in paragraph.splitlines() if line.strip()]
    outer = [line for line in lines if not line.startswith(" ")]
    if outer and all(map(TERM.match, outer)):  # name: what it means
        lines = [
            TERM.sub(r"- ``\1``:", escape(line)) if line in outer else escape(line[2:])
            for line in lines
        ]
        return "\n".join(lines)
    if outer and outer[0].startswith("- "):
        return "\n".join(map(escape, lines))
    written: list[str] = []
    for is_outer, group in groupby(lines, lambda line: not line.startswith(" ")):
        shown = [escape(line) if is_outer else line for line in group]
        written.append("\n".join(shown if is_outer else ["::", "", *shown]))
    return "\n\n".join(written)


def as_click_text(_app: Any, _context: Any, lines: list[str]) -> None:
    """Help texts are plain text, in which file:PATH is no link."""
    lines[:] = [re.sub(r'"?\bfile:PATH\b"?', "``file:PATH``", escape(line)) for line in lines]


def readable_signature(
    _app: Any, _what: str, _name: str, _it: Any, _options: Any, signature: str | None, result: Any
) -> tuple[str | None, Any]:
    """A default that is a function or a factory is no Python as its repr."""
    if signature:
        signature = re.sub(r"functools\.partial\(<[^>]*>[^)]*\)|<[^<>]+>", "...", signature)
    return signature, result


def escape(line: str) -> str:
    """A name that ends in an underscore is no link, outside of backticks."""
    pieces = line.split("`")
    pieces[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def setup(app: Any) -> None:
    app.connect("builder-inited", write_api)
    app.connect("source-read", show_root_file)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", readable_signature)
    for kind in ("description", "options", "arguments"):
        app.connect(f"sphinx-click-process-{kind}", as_click_text)
