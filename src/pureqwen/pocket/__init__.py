"""The model that ships inside the package: data, no code. `pureqwen.load()` loads it; recipes/pocket makes it."""
