"""Tests of sdqueue."""
