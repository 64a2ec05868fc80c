"""Tests of what producers remember."""
