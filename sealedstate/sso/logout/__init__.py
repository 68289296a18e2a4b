"""Single logout: ends a user's sessions and records which services must be notified.

`single_logout` is what an application calls, `progress` one logout under way and the row of
it that survives a crash, and `index` what leads from a service's request to sessions.
`_termination` has the safe order in which a session is ended.
"""
