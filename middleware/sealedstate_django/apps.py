"""The application for INSTALLED_APPS: system checks, tables and commands."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from ._checks import check_project, check_store


class SealedStateConfig(AppConfig):
    """Sealed sessions."""

    name = "sealedstate_django"
    verbose_name = "Sealed sessions"

    def ready(self) -> None:
        register(check_project, Tags.security)
        register(check_store, Tags.security, deploy=True)
