"""What Django's error mails and error pages show of sealed sessions: no cookie and no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import FrameType
from typing import Any

from django.conf import settings as project
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.views.debug import SafeExceptionReporterFilter

from sealedstate.errors import contains_key

from ._keeper import cookie_names

__all__ = ["ReportFilter", "report_filter"]

_VARIABLES = re.compile(r"SEALEDSTATE_(?:KEYS|KEK|STORAGE)\b")

_PACKAGES = ("sealedstate", "sealedstate_django")


class ReportFilter(SafeExceptionReporterFilter):
    """Hides the session's cookies, the URL of the store and keys, beside what Django hides.

    Django itself only hides the cookie that SESSION_COOKIE_NAME names. This filter takes the place
    of Django's as DEFAULT_EXCEPTION_REPORTER_FILTER. If that names a filter of the project, the
    middleware extends it for each request.
    """

    def cleanse_setting(self, key: int | str, value: Any) -> Any:
        is_variable = isinstance(key, str) and _VARIABLES.match(key) is not None
        if is_variable or (isinstance(value, str) and contains_key(value)):
            return self.cleansed_substitute
        if key == "SEALEDSTATE" and isinstance(value, Mapping) and value.get("storage"):
            value = {**value, "storage": self.cleansed_substitute}
        return super().cleanse_setting(key, value)

    def get_safe_cookies(self, request: HttpRequest) -> dict[str, Any]:
        names = cookie_names()
        return {
            name: self.cleansed_substitute if names.match(name) else value
            for name, value in super().get_safe_cookies(request).items()
        }

    def get_traceback_frame_variables(self, request: HttpRequest, tb_frame: FrameType) -> Any:
        variables = super().get_traceback_frame_variables(request, tb_frame)
        # Frames of these packages have Cookie headers and values of sessions.
        if str(tb_frame.f_globals.get("__name__")).partition(".")[0] in _PACKAGES:
            return [(name, self.cleansed_substitute) for name, _ in variables]
        return variables


def report_filter() -> SafeExceptionReporterFilter:
    """A filter that also hides what the project's own DEFAULT_EXCEPTION_REPORTER_FILTER does."""
    base: Any = import_string(project.DEFAULT_EXCEPTION_REPORTER_FILTER)
    if isinstance(base, type) and not issubclass(base, ReportFilter):
        base = type(base.__name__, (ReportFilter, base), {})
    made: SafeExceptionReporterFilter = base()
    return made
