"""Claims about speed, memory and quality, each a command that prints a table."""
