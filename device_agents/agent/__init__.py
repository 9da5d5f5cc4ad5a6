"""Shipped to the device as one file: standard library only, syntax of Python 3.8."""
