"""The application for INSTALLED_APPS: system checks, tables and commands."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings as project
from django.core.checks import Tags, register

from ._checks import check_project, check_store


class SealedStateConfig(AppConfig):
    """Sealed sessions."""

    name = "sealedstate_django"
    verbose_name = "Sealed sessions"

    def ready(self) -> None:
        register(check_project, Tags.security)
        register(check_store, Tags.security, deploy=True)
        # Also reports of errors without a request, or outside of the middleware, name no secret.
        if not project.is_overridden("DEFAULT_EXCEPTION_REPORTER_FILTER"):
            project.DEFAULT_EXCEPTION_REPORTER_FILTER = "sealedstate_django.ReportFilter"
