"""Runs the whole marketplace on one machine: servers from wheels, every process, a sample upstream.

For `make run` and for the tests. Nothing of the application imports it.
"""
