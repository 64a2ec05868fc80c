"""Slack: events become turns, and replies become messages."""
