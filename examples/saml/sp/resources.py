"""What a service opens: settings for its sessions, and a cache of the messages it has received."""

from __future__ import annotations

import time
from pathlib import Path

from sealedstate.deployment import Deployment
from sealedstate.sso import ReplayCache

from ..entities import ASSERTION_MINUTES, make_service_provider
from ..federation import Federation, Service
from ..messages import FRESH, Messages
from ..resources import MemberResources


class ServiceResources:
    """The resources of one service, in its directory below `var`.

    Raises ConfigurationError, OperatorError or OSError.
    """

    def __init__(self, var: Path, federation: Federation, service: Service) -> None:
        self.service = service
        self.federation = federation
        settings = MemberResources(var, service.name).settings(service.name)
        self.deployment = Deployment.open(settings)
        self.client = make_service_provider(var, federation, service)
        replays = ReplayCache(self.deployment, longest=2 * FRESH + 60 * ASSERTION_MINUTES)
        self.messages = Messages(self.client, service, replays, time.time)
