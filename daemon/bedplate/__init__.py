"""Bedplate: one daemon that holds the layers under the model API.

Importing this package does no work and needs neither grpc nor structlog, so that the inference
engine also runs where only torch is installed.
"""

__version__ = "0.1.0"
