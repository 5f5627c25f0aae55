"""From a prompt to an answer: the definition that every faster way must equal.

sampling chooses a token from logits; row is one prompt on its way; loop computes the logits and runs the
rows, stepped does so by steps that are compiled or recorded; result is what the caller gets. constrain holds
an answer to a form, which forms writes as a grammar; speculative guesses the tokens that come next.
"""

from pureqwen.generate.constrain import Constraint, Grammar, Grammars
from pureqwen.generate.intake import Intake, Messages, Prompt, Tools
from pureqwen.generate.loop import Cached, Full, decode, greedy
from pureqwen.generate.proportion import GrammarError
from pureqwen.generate.result import Logprob, Result, Timings, Usage
from pureqwen.generate.row import Budget, Row
from pureqwen.generate.sampling import Sampler
from pureqwen.generate.stepped import Stepped

__all__ = [
    "Budget",
    "Cached",
    "Constraint",
    "Full",
    "Grammar",
    "GrammarError",
    "Grammars",
    "Intake",
    "Logprob",
    "Messages",
    "Prompt",
    "Result",
    "Row",
    "Sampler",
    "Stepped",
    "Timings",
    "Tools",
    "Usage",
    "decode",
    "greedy",
]
