"""Measurements of Bedplate beside other systems; `make bench` runs them all, see README.md."""
