"""Asks a device for numbers: what is measured, how far it can be believed, and whose turn it is."""
