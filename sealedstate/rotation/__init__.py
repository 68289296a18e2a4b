"""Key rings that rotate without a restart and without losing a session.

`ring` is a ring as a value, `transitions` makes the next ring of a ring, and
`document` writes a ring as text. `ring_file` and `ring_store` keep that text,
`source` is the key source that loads and rotates it, and `reports` is how
processes say which ring they use.
"""

from __future__ import annotations

__all__: list[str] = []
