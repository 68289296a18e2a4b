"""One request: `load` reads the session from the cookies, `save` answers with new ones."""
