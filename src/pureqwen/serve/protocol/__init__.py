"""The HTTP protocols, OpenAI's and Anthropic's: requests checked, answers written. No torch, no network.

bytes --body--> JSON --chat, completions, messages, tokens--> Ask        what the engine is asked for
events of the rows --*_answer--> JSON or server-sent events              what the client is told
"""
