"""Starts the shop on a port of this machine and prints the link to open.

python examples/django [--port N] [--var DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.django.project import set_up
from examples.shop.serving import run_shop, serve_wsgi

if __name__ == "__main__":
    sys.exit(run_shop("Django", 8020, set_up, serve_wsgi))
