"""How a service keeps its sessions, and what it knows of messages that it has seen.

Knows `Settings`. Does not know requests or pages.
"""

from __future__ import annotations

import time
from pathlib import Path

from sealedstate.deployment import Deployment as SealedDeployment
from sealedstate.sso import ReplayCache

from ..entities import ASSERTION_MINUTES, service_provider
from ..federation import Federation, Service
from ..keeping import Keeping
from ..messages import FRESH, Messages


class Deployment:
    """All that one service has, in its own part of `var`. Raises like that of the IdP."""

    def __init__(self, var: Path, federation: Federation, service: Service) -> None:
        self.service = service
        self.federation = federation
        self.clock = time.time
        keeping = Keeping(var, service.name)
        self.settings = keeping.settings(service.name)
        longest = 2 * FRESH + 60 * ASSERTION_MINUTES
        self.client = service_provider(var, federation, service)
        replays = ReplayCache(SealedDeployment.open(self.settings), longest)
        self.messages = Messages(self.client, service, replays, self.clock)
