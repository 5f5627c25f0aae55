"""What a model did, and why: so far the ledger of parameters, bytes and floating-point operations."""

from pureqwen.explain.ledger import Ledger, Part, ledger

__all__ = ["Ledger", "Part", "ledger"]
