"""What the shop keeps in its database beside Django's users."""

from __future__ import annotations

from django.db import models


class Device(models.Model):
    """A browser in which a user signed in; `session_key` is no secret."""

    session_key: models.CharField[str, str] = models.CharField(max_length=40, unique=True)
    label: models.CharField[str, str] = models.CharField(max_length=60)

    def __str__(self) -> str:
        return str(self.label)
