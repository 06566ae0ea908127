"""What a policy stands between: observation and action spaces, taken apart into arrays."""
