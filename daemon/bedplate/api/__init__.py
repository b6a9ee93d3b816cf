"""The public contract as Python: stubs generated from proto/, `bedplate.api.<x>.v1.<x>_pb2`.

Only this file is kept in the repository; the packages below it are written by proto/generate.py when
the distribution is built or `make setup` runs.
"""
