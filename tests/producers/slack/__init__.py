"""Tests of the Slack channel, against a Slack Web API server that keeps what users would see."""
