"""Producers: services that connect chat platforms to both ends of the queue."""
