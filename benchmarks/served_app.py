"""The application that gunicorn serves for `served`: one product's pages, each under its kind.

Knows two variables of the environment, which name the product and, where its sessions are on a
server, that server. GET /cookie answers with the Cookie header of a browser that has a session.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "middleware"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.request_apps import PRODUCTS, Environ, Pages, no_op
from benchmarks.stored_apps import STORED
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

ROW, PLACE, NO_OP = "SEALEDSTATE_BENCH_ROW", "SEALEDSTATE_BENCH_PLACE", "no-op"


def make_application() -> Callable[[Environ, Callable[..., Any]], Iterable[bytes]]:
    """What the environment names."""
    row = os.environ[ROW]
    if row == NO_OP:
        return no_op
    pages = _pages(row)
    cookie = pages.cookie.encode("latin-1")
    by_path = {f"/{kind}": page for kind, page in pages.by_kind.items()}

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        page = by_path.get(environ["PATH_INFO"])
        if page is None:
            start_response("200 OK", [("Content-Length", str(len(cookie)))])
            return [cookie]
        environ["PATH_INFO"] = "/"
        return page(environ, start_response)

    return application


def _pages(row: str) -> Pages:
    place = os.environ.get(PLACE)
    if place is not None:
        backend, _, url = place.partition("=")
        return STORED[row](backend, url)
    (product,) = [product for product in PRODUCTS if product.row == row]
    return product.start(make_workload("W1", 1, read_entity_ids(ENTITY_IDS)))
