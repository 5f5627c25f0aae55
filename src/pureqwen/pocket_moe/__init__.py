"""The pocket's sibling with experts: data, no code. `pureqwen.load("pocket-moe")` loads it."""
