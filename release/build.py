"""`make release`: a wheel and an sdist in dist/, built twice with the same bytes.

Refuses while the owner's values are missing, the changelog has no dated section of this version, or
the tree is not what is committed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **environ},
    )
    return done.stdout.strip()


def reasons_against() -> list[str]:
    (version,) = re.findall(r'__version__ = "(.*)"', (ROOT / "sealedstate/__init__.py").read_text())
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    found = []
    if not re.search(heading, (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE):
        found.append(f"CHANGELOG.md: expected a section '## {version} - YYYY-MM-DD'")
    if run("git", "status", "--porcelain"):
        found.append("git: the tree has changes that are not committed")
    return found


def build(folder: str, epoch: str) -> dict[str, str]:
    """The files' names and SHA-256."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, SOURCE_DATE_EPOCH=epoch)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).iterdir())
    }


def main() -> int:
    for reason in (found := reasons_against()):
        print(reason, file=sys.stderr)
    if found:
        return 1
    epoch = run("git", "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        built = build(first, epoch)
        if built != build(second, epoch):
            print("two builds differ: nothing is released", file=sys.stderr)
            return 1
        dist = ROOT / "dist"
        dist.mkdir(exist_ok=True)
        for name in built:
            (dist / name).write_bytes((Path(first) / name).read_bytes())
    for name, digest in built.items():
        print(f"{digest}  dist/{name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
