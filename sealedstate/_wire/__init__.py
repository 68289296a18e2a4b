"""The format: values, records and tokens, as bytes and as texts."""
