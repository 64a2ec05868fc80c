"""Encryption at rest: what stores keep of a session, sealed under a key of its own."""
