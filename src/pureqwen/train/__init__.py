"""Learning: from data to a checkpoint that every other part of the package reads.

Files of records (records.py) become documents (data.py), these a loss (loss.py); the loop steps (loop.py),
its state is kept on disk (checkpoint.py), and run.py is all of it.
"""

import sys
from inspect import signature
from types import ModuleType

from pureqwen.train.data import Corpus, Document, encode_chat, pack, read_corpus
from pureqwen.train.loop import Diverged, StepLog, Trainer
from pureqwen.train.loss import Batch, Loss, cross_entropy
from pureqwen.train.run import Trained, train

__all__ = [
    "Batch",
    "Corpus",
    "Diverged",
    "Document",
    "Loss",
    "StepLog",
    "Trained",
    "Trainer",
    "cross_entropy",
    "encode_chat",
    "pack",
    "read_corpus",
    "train",
]


class _CallableFolder(ModuleType):
    """`pureqwen.train` names a function and this folder, and importing the folder would hide the function."""

    __call__ = staticmethod(train)
    __signature__ = signature(train)


sys.modules[__name__].__class__ = _CallableFolder
