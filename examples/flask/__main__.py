"""Starts the shop on a port of this machine and prints the link to open.

python examples/flask [--port N] [--var DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.flask.app import make_app
from examples.shop.serving import run_shop, serve_wsgi

if __name__ == "__main__":
    sys.exit(run_shop("Flask", 8010, make_app, serve_wsgi))
