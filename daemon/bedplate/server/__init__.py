"""The composition root: the one place where layers meet, and the daemon's life cycle."""
