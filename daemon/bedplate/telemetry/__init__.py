"""Logging and metrics: what an operator sees."""
