"""Tests of the test kit for channels, and of the example that passes it."""
