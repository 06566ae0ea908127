"""`python -m a3c`."""

from a3c.cli import program

program()
