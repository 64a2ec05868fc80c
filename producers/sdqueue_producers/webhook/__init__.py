"""The generic webhook: Standard Webhooks both ways, for whatever can send and receive HTTP."""

from sdqueue_producers.webhook.channel import WebhookChannel, make_channel
from sdqueue_producers.webhook.settings import EndpointSettings, WebhookSettings

__all__ = ["EndpointSettings", "WebhookChannel", "WebhookSettings", "make_channel"]
