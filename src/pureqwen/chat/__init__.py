"""Messages to a prompt, and a model's ids to an answer. No tensor comes here.

messages --ChatTemplate.encode--> ids --the model--> ids --Reply--> reasoning, content, tool calls
"""

from pureqwen.chat.answer.calls import Calls
from pureqwen.chat.answer.events import Content, Event, Finish, FinishReason, Reasoning, Recast, ToolCallDelta
from pureqwen.chat.answer.parser import ReplyOptions
from pureqwen.chat.answer.reply import Reply, parse_tool_calls, split_reasoning
from pureqwen.chat.answer.tools import ToolCall
from pureqwen.chat.prompt.budget import TemplateError
from pureqwen.chat.prompt.template import ChatTemplate, thinking_mode

__all__ = [
    "Calls",
    "ChatTemplate",
    "Content",
    "Event",
    "Finish",
    "FinishReason",
    "Reasoning",
    "Recast",
    "Reply",
    "ReplyOptions",
    "TemplateError",
    "ToolCall",
    "ToolCallDelta",
    "parse_tool_calls",
    "split_reasoning",
    "thinking_mode",
]
