"""`pureqwen download`: fetch a model once, so that it runs without a network afterwards."""

from typing import Annotated

from pureqwen.cli.options import flag


def download(
    model: Annotated[str, flag("A repository on the hub such as Qwen/Qwen3-0.6B.")],
    /,
    *,
    revision: Annotated[str | None, flag("A branch, tag or commit.")] = None,
) -> None:
    """Fetch a model from the hub and print the folder it lies in.

    Only the files that a model needs are fetched; a download that was cut is resumed.
    """
    from pureqwen.weights.sources import resolve

    print(resolve(model, revision=revision))
