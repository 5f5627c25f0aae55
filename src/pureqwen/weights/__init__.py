"""Tensors in and out: names of models to folders, folders to models, models to folders.

sources (a name -> a folder), files (a folder -> a table of mapped tensors), names (file names <->
parameters), load (the table -> a model), save (a model -> a folder).
"""

from pureqwen.weights.files import WeightError, has_weights
from pureqwen.weights.load import load_model, load_weights, quantised_structure
from pureqwen.weights.save import save_model, write_json
from pureqwen.weights.sources import resolve

__all__ = [
    "WeightError",
    "has_weights",
    "load_model",
    "load_weights",
    "quantised_structure",
    "resolve",
    "save_model",
    "write_json",
]
