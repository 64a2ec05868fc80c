"""Agents on a language model: any server that speaks OpenAI's API of chat completions."""

from sdqueue.agents.llm.agent import LLMAgent, LLMAgentFactory
from sdqueue.agents.llm.model import LLM
from sdqueue.agents.llm.options import LLMOptions
from sdqueue.agents.llm.tools import Tool

__all__ = ["LLM", "LLMAgent", "LLMAgentFactory", "LLMOptions", "Tool"]
