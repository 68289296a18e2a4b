"""How many instructions the calls of a benchmark take, counted by callgrind.

A script that counts has an option `--marks LIBRARY` that makes it call `run_turns`, and nothing
else: `count_turns` runs the script so, under valgrind. Counts are the same on a busy machine. They
differ between releases of Python and of the libraries. What another process does is not counted,
nor what the kernel does.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.cpu_rounds import Turn, looped

MARKS = Path(__file__).with_name("marks.c")
WARM_UP, STEPS = 60, 100
LOOP = "loop"


def add_marks(parser: argparse.ArgumentParser) -> None:
    """The hidden option with which `count_turns` runs a script."""
    parser.add_argument("--marks", metavar="LIBRARY", help=argparse.SUPPRESS)


def run_turns(library: str, turns: Mapping[str, Turn]) -> None:
    """Make some calls of each turn between two marks; the first turn is an empty loop.

    `library`: of the marks; if it is empty, nothing is run, and the script is compiled only.
    """
    if not library:
        return
    marks = ctypes.PyDLL(library)
    gc.disable()
    for name, turn in {LOOP: looped(lambda number: number), **turns}.items():
        turn(WARM_UP)
        gc.collect()
        marks.start()
        turn(STEPS)
        marks.stop(name.encode())


def count_turns(script: str, options: Sequence[str] = ()) -> dict[str, int] | str:
    """Instructions of a call, by turn; or why they cannot be counted here, in a sentence.

    `script`: of the file, which takes `options`, and `--marks` as above.
    """
    compiler = shutil.which("cc")
    if shutil.which("valgrind") is None or compiler is None:
        return "valgrind or a C compiler is not installed"
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/marks.so"
        built = subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, str(MARKS)], capture_output=True
        )
        if built.returncode:
            return "valgrind's header callgrind.h is not installed"
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        # Compiled code of its own, so that counts don't depend on what an earlier run has left.
        environ |= {"PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        command = [sys.executable, str(Path(script).resolve()), *options, "--marks"]
        subprocess.run([*command, ""], env=environ, check=True)
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        valgrind.append(f"--callgrind-out-file={folder}/out")
        ran = subprocess.run(
            [*valgrind, *command, library],
            env=environ | {"LD_PRELOAD": library},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise RuntimeError(f"valgrind failed:\n{ran.stderr[-2000:]}")
        counts = dict(read_dumps(Path(folder)))
    loop = counts.pop(LOOP)
    return {name: round((total - loop) / STEPS) for name, total in counts.items()}


def read_dumps(folder: Path) -> Iterator[tuple[str, int]]:
    """The name and the instructions of each dump, in the order of their numbers."""
    for path in sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:])):
        text = path.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (.+)", text, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
        if name is not None and total is not None:
            yield name[1], int(total[1])
