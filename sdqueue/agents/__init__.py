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
from sdqueue.agents.durable import durable, keeps_conversation, load_conversation
from sdqueue.agents.flow import FlowState
from sdqueue.agents.function import FunctionAgent
from sdqueue.agents.llm import LLM, LLMAgent, LLMAgentFactory, LLMOptions, Tool
from sdqueue.agents.loading import as_agent_factory, load_agent_factory
from sdqueue.agents.memo import MemoAgent
from sdqueue.agents.routes import AgentRoutes, load_agents, opened_agents, parse_routes
from sdqueue.agents.wrapping import as_agent

__all__ = [
    "LLM",
    "Agent",
    "AgentFactory",
    "AgentRoutes",
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
    "keeps_conversation",
    "load_agent_factory",
    "load_agents",
    "load_conversation",
    "opened_agents",
    "parse_routes",
    "set_current_turn",
]
