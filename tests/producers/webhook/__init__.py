"""The generic webhook, with the standardwebhooks package as sender and as receiver."""
