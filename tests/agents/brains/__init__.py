"""Brains of other libraries: each in one process, and with another process for every turn."""
