"""The model that ships inside the package: data, no code. `pureqwen.load()` loads it."""
