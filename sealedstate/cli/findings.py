"""What a check finds: one sentence that says what is wrong and what to do.

Knows how findings are named. Does not know how they are found.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`about`: what was looked at, of a fixed set of words; `subject`: which key, file or node.

    Both together name a finding as long as it lasts; its sentence may change with time.
    """

    about: str
    subject: str
    sentence: str

    @property
    def name(self) -> tuple[str, str]:
        return (self.about, self.subject)
