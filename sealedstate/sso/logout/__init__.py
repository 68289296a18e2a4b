"""Single logout: ends a user's sessions and records which services must be notified.

`single_logout` is what an application calls, `progress` one logout under way, and
`index` what leads from a service's request to sessions. `_termination` has the safe order
in which a session is ended, and `_state` the row that survives a crash.
"""
