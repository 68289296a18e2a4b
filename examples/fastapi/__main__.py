"""Starts the shop on a port of this machine and prints the link to open.

python examples/fastapi [--port N] [--var DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.fastapi.app import make_app
from examples.shop.serving import run_shop, serve_asgi

if __name__ == "__main__":
    sys.exit(run_shop("FastAPI", 8030, make_app, serve_asgi))
