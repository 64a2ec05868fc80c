"""Web chat: visitors of web pages, over a WebSocket or an event stream, with a page that is embedded by one tag."""

from sdqueue_producers.webchat.channel import WebchatChannel, make_channel
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tokens import Tokens, Visitor

__all__ = ["Tokens", "Visitor", "WebchatChannel", "WebchatSettings", "make_channel"]
