"""What every command takes unless told otherwise; imported by the command line, so it imports nothing."""

# The judge of every command, unless another is named.
DEFAULT_JUDGE = "learned"
