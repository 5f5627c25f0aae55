"""Which device a model goes to: the one that is asked for, or the best that is there."""

import torch


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device that is asked for, or the best one. ValueError where this machine or torch has no such."""
    try:
        found = torch.device(best_device() if device is None else device)
        torch.empty(1, device=found).item()  # which the meta device, having no numbers, refuses
    except (RuntimeError, AssertionError, TypeError) as error:  # a torch without CUDA asserts that it has it
        why = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device {str(device)!r} can't be used here: {why}") from error
    return found


def best_device() -> str:
    """cuda, mps or cpu: the first that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
