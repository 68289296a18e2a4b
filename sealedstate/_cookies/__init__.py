"""The Cookie header, Set-Cookie lines, and the sealed records in them."""
