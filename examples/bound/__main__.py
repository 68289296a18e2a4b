"""Starts the page over https on this machine, and opens it in Chromium.

python examples/bound [--port N] [--no-store] [--no-browser]
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.bound.app import make_application
from examples.bound.serving import serve_https
from sealedstate import ConfigurationError, OperatorError

HOST = "app.example.test"


def main() -> int:
    """Serve until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser("python examples/bound", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="by default any that is free")
    parser.add_argument("--no-store", action="store_true", help="see what changes without a store")
    parser.add_argument("--no-browser", action="store_true", help="print the command only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            application = make_application(Path(folder), has_store=not options.no_store)
            stack = contextlib.ExitStack()
            site = stack.enter_context(serve_https(application, HOST, options.port, Path(folder)))
        except (ConfigurationError, OperatorError, OSError) as error:
            print(f"The page can't start: {error}", file=sys.stderr)
            return 1
        with stack, contextlib.suppress(KeyboardInterrupt):
            profile = f"--user-data-dir={folder}/profile"
            command = [browser or "chromium", profile, *site.browser_arguments, site.url]
            print(f"{shlex.join(command)}\n(Ctrl-C stops the page)", flush=True)
            if browser and not options.no_browser:
                subprocess.run(command, check=False, stderr=subprocess.DEVNULL)  # noqa: S603
            else:
                signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
