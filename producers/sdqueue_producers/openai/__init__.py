"""The front door with OpenAI's API: ``/v1/chat/completions``, ``/v1/responses`` and ``/v1/models``."""

from sdqueue_producers.openai.channel import OpenAIChannel, make_channel
from sdqueue_producers.openai.settings import OpenAISettings

__all__ = ["OpenAIChannel", "OpenAISettings", "make_channel"]
