"""What a model did, and why: the ledger of parameters, bytes and operations; the surprise of each token.

`surprise` needs torch, so it is imported by its full name: from pureqwen.explain.surprise import surprise
"""

from pureqwen.explain.ledger import Ledger, Part, ledger

__all__ = ["Ledger", "Part", "ledger"]
