"""What 8 and 4 bits cost: the pocket's answers and next-token distributions, scheme by scheme.

On random weights such figures mean nothing, so the trained model is asked: held-out questions of every task
with thinking (as `make pocket-eval` does), and, over the expected texts of the same questions, how far the
distribution of the next token moved: the mean KL divergence from the float32 model's, in nats, and how often
the most likely token stayed the same. Writes results/quantized.json.

    python benchmarks/bench_quantized.py [--count 25]
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import pureqwen
from pureqwen.config.quantization import SCHEMES
from pureqwen.model import PackedAttend
from pureqwen.train.data import Document, batch, encode_chat
from pureqwen.train.loss import IGNORED
from pureqwen.weights import resolve
from pureqwen.weights.convert import quantize_folder

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # recipes/ lies beside the package

from recipes.pocket.evaluate import answers, asked, share  # noqa: E402
from recipes.pocket.problem import Chat  # noqa: E402
from recipes.pocket.tasks import TASKS  # noqa: E402

WAYS = [(scheme, "int8") for scheme in SCHEMES] + [("int4-g64", "int4-g64")]  # of the blocks, and of the head
RESULT = ROOT / "benchmarks" / "results" / "quantized.json"


@torch.inference_mode()
def log_probabilities(qwen: pureqwen.Qwen, documents: list[Document]) -> Tensor:
    """(N, V): of the next token at every position that is learned."""
    found = []
    for document in documents:
        one = batch([document], [[0]], len(document))
        keep = (one.labels != IGNORED).nonzero(as_tuple=True)
        attends = [PackedAttend(one.documents)] * qwen.config.num_hidden_layers
        found.append(qwen.model(one.ids, positions=one.positions, attends=attends, keep=keep).log_softmax(-1))
    return torch.cat(found)


def figures(
    qwen: pureqwen.Qwen, chats: dict[str, list[Chat]], plain: Tensor, moved: Tensor
) -> dict[str, str]:
    """Of one model: percent of right answers by task and over all, and how far it is from the plain one."""
    tasks = {task: share(answers(qwen, few, thinking=True)) for task, few in chats.items()}
    kl = F.kl_div(moved, plain, log_target=True, reduction="none").sum(-1).mean().item()
    same = (plain.argmax(-1) == moved.argmax(-1)).float().mean().item()
    stored = sum(parameter.nbytes for parameter in qwen.model.parameters())
    return {
        **{f"{task}, % right": f"{right:.0f}" for task, right in tasks.items()},
        "all tasks, % right": f"{sum(tasks.values()) / len(tasks):.1f}",
        "KL divergence, nats": f"{kl:.5f}",
        "same best token, %": f"{100 * same:.2f}",
        "weights in memory, MB": f"{stored / 1e6:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=25, help="questions of each task")
    count = parser.parse_args().count
    torch.set_num_threads(1)  # a model so small waits longer for a second thread than it gains
    chats: dict[str, list[Chat]] = {task.name: asked(task, count) for task in TASKS}
    qwen = pureqwen.load(dtype="float32")
    assert qwen.tokenizer is not None and qwen.template is not None
    documents = [
        encode_chat(chat["messages"], qwen.tokenizer, qwen.template, tools=chat.get("tools"))[-1]
        for few in chats.values()
        for chat in few
    ]
    plain = log_probabilities(qwen, documents)
    found = {"float32": figures(qwen, chats, plain, plain)}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (scheme, head) in enumerate(WAYS):
            folder = Path(temporary) / str(number)
            quantize_folder(resolve("pocket"), folder, scheme=scheme, head=head)
            small = pureqwen.load(folder, dtype="float32")
            name = scheme if head == "int8" else f"{scheme}, the head too"
            found[name] = figures(small, chats, plain, log_probabilities(small, documents))
            print(name, json.dumps(found[name]), flush=True)
    result = {
        "command": f"python benchmarks/bench_quantized.py --count {count}",
        "device": f"{platform.machine()} cpu, {torch.get_num_threads()} threads",
        "versions": {"pureqwen": pureqwen.__version__, "torch": torch.__version__},
        "rows": [
            {"of the pocket": name, **{scheme: values[name] for scheme, values in found.items()}}
            for name in found["float32"]
        ],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
