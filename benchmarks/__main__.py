"""All benchmarks, one after the other: `make bench`, or `python -m benchmarks [FOLDER]`.

Knows the scripts and how thorough each is to be here. Does not measure anything. What each has to
tell a program is written into FOLDER (build/bench where none is named).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {
    "sizes": (),
    "speed": (),
    "request": ("--served", "1"),
    "stores": ("--seconds", "30"),
    "rotation": ("--requests", "20000"),
    "scale": (),
}


def main(arguments: Sequence[str]) -> int:
    """The number of scripts that failed."""
    folder = Path(arguments[0]) if arguments else HERE.parent / "build" / "bench"
    failed = [name for name, options in SCRIPTS.items() if not _ran(name, options, folder)]
    for name in failed:
        print(f"{name}.py failed", file=sys.stderr)
    print(f"\nWritten into {folder}")
    return len(failed)


def _ran(name: str, options: Sequence[str], folder: Path) -> bool:
    print(f"\n{'=' * 78}\n{name}.py {' '.join(options)}\n{'=' * 78}", flush=True)
    script, save = str(HERE / f"{name}.py"), ("--save", str(folder / f"{name}.json"))
    return subprocess.run([sys.executable, script, *options, *save]).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
