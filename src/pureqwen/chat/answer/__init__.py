"""A model's ids to an answer: reasoning, content, tool calls and the reason to finish, as they stream."""
