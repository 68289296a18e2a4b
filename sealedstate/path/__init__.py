"""What a path between browser and application carries, and which server or proxy limits it.

    steps = diagnose(profile, "https", os.urandom(16))
    probe = next(steps)
    probe = steps.send(observation)  # until StopIteration, whose value is the Diagnosis

`diagnose` plans the requests and judges the answers; the caller sends them. `PathPages` answers
them in the application, and has a page for the visitor whose browser has the problem.
`sealedstate path`, `sealedstate_wsgi.PathApplication` and `sealedstate_asgi.PathApplication` do the
I/O. docs/path.md is the guide.
"""

from __future__ import annotations

from ._engine import Diagnosis, PathFinding, PathLimit, Probe, diagnose
from ._hops import Observation
from ._pages import PathPages

__all__ = ["Diagnosis", "Observation", "PathFinding", "PathLimit", "PathPages", "Probe", "diagnose"]
