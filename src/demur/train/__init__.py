"""Training: rows, control tokens and adapters, through peft and trl."""
