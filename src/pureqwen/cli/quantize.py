"""`pureqwen quantize`: a checkpoint in 8 or 4 bits, written while it is read."""

from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.progress import Progress

from pureqwen.cli.errors import notice
from pureqwen.cli.info import size
from pureqwen.cli.options import flag

Schemes = Literal["int8", "int4-g32", "int4-g64", "int4-g128"]


def quantize(
    model: Annotated[str, flag("A folder or hub name with weights in bfloat16 or float32.")],
    out: Annotated[Path, flag("The folder for the result.")],
    /,
    *,
    scheme: Annotated[Schemes, flag("Bits a weight; g32: one scale for 32 weights, more is smaller.")],
    head: Annotated[
        Literal["int8", "int4-g32", "int4-g64", "int4-g128", "none"],
        flag("The scheme of lm_head; none leaves it as it is (and tied, where it is)."),
    ] = "int8",
    revision: Annotated[str | None, flag("A branch, tag or commit.")] = None,
) -> None:
    """Write a model with its weights in 8 or 4 bits, as compressed-tensors stores them.

    Products then read a half or a quarter of the bytes. Embedding, norms and routers stay. The weights are
    rounded tensor by tensor, so that a model larger than the memory can be written. Prints the folder.
    """
    from pureqwen.weights import resolve
    from pureqwen.weights.convert import quantize_folder

    source = resolve(model, revision=revision)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("quantising", total=None)
        quantize_folder(
            source,
            out,
            scheme=scheme,
            head=None if head == "none" else head,
            watch=lambda done, total: bar.update(task, completed=done, total=total),
        )
    notice(f"{weights(source)} became {weights(out)}")
    print(out)


def weights(folder: Path) -> str:
    """How large the weight files are."""
    return size(sum(path.stat().st_size for path in folder.glob("*.safetensors")))
