"""The composition root: the one place where layers meet, and the daemon's life cycle."""

import os

# Before gRPC is imported, which reads it: lines of its own would be among our log's records.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
