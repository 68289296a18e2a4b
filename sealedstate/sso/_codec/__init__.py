"""Login records as bytes: authentications, service logins, strings, bits."""
