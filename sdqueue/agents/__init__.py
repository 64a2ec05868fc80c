"""Agents: the brains that answer turns, and the values they exchange with the rest."""

from sdqueue.agents.agent import (
    Agent,
    AgentFactory,
    DurableAgent,
    StreamChunk,
    TurnContext,
    TurnResult,
    as_turn_result,
    current_turn,
    set_current_turn,
)
from sdqueue.agents.chat import ChatContext, ChatMessage, Role, ToolCall
from sdqueue.agents.durable import durable, load_conversation
from sdqueue.agents.flow import FlowState
from sdqueue.agents.function import FunctionAgent
from sdqueue.agents.llm import LLM, LLMAgent, LLMAgentFactory, LLMOptions, Tool
from sdqueue.agents.loading import as_agent_factory, load_agent_factory, opened_agent_factory
from sdqueue.agents.memo import MemoAgent
from sdqueue.agents.wrapping import as_agent

__all__ = [
    "LLM",
    "Agent",
    "AgentFactory",
    "ChatContext",
    "ChatMessage",
    "DurableAgent",
    "FlowState",
    "FunctionAgent",
    "LLMAgent",
    "LLMAgentFactory",
    "LLMOptions",
    "MemoAgent",
    "Role",
    "StreamChunk",
    "Tool",
    "ToolCall",
    "TurnContext",
    "TurnResult",
    "as_agent",
    "as_agent_factory",
    "as_turn_result",
    "current_turn",
    "durable",
    "load_agent_factory",
    "load_conversation",
    "opened_agent_factory",
    "set_current_turn",
]
