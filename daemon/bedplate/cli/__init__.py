"""`bedplate`, the command line: a client of a running daemon, offline tools and the demo."""
