"""What is sealed in a store: `table` is the rows, `parts` and `revocations` use it."""
