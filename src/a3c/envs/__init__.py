"""Vector environments from an id, a class or a callable."""
