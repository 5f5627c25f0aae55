"""What benchmarks/peers makes of figures: rows, ratios and limits, the bars, the tables and the picture."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import bars, plot, table
from benchmarks.peers.rows import Key, merged, rows_of, spread

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "peers.json"

DECODE, START, MEMORY = (
    Key("decode", 8, 1, 512),
    Key("start-up", 8, 1, 32),
    Key("memory", 8, 1, 512),
)


def test_a_row_holds_medians_ratios_and_the_share_of_its_limit() -> None:
    found = {
        DECODE: {"ours": [30.0, 50.0, 40.0], "plain": [10.0], "llama.cpp Q8_0": [19.0, 20.0, 25.0]},
        START: {"ours": [2.0], "OpenVINO int8": [5.0]},
        MEMORY: {"plain": [700.0]},
    }
    rows, runs = rows_of(found, {DECODE: 80.0, START: 1.5})
    assert rows[0] == {
        "what": "decode",
        "bits": 8,
        "batch": 1,
        "prompt": 512,
        "ours": 40.0,
        "plain": 10.0,
        "peers": {"llama.cpp Q8_0": 20.0},
        "ratios": {"llama.cpp Q8_0": 2.0},
        "limit": 80.0,
        "share": 0.5,
    }
    assert rows[1]["ratios"] == {"OpenVINO int8": 2.5} and rows[1]["share"] == 0.75  # less is better
    assert rows[2]["ours"] is None and rows[2]["ratios"] == {} and rows[2]["share"] is None
    assert runs[0] == found[DECODE]
    assert spread([30.0, 50.0, 40.0]) == 0.25


def result_of(*rows: dict[str, Any], missing: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "command": "bench",
        "machine": {"processor": "a slow one", "threads": 2},
        "versions": {"llama-cpp-python": "1"},
        "missing": missing or {},
        "rows": list(rows),
        "runs": [{"ours": [row["ours"]]} for row in rows],
    }


def row(what: str = "decode", bits: int = 8, batch: int = 1, **fields: Any) -> dict[str, Any]:
    """Ours is 40 of at most 100, and the peers are given by speed."""
    given = {"ours": 40.0, "plain": 10.0, "peers": {}, "limit": 100.0, **fields}
    less = what in ("memory", "start-up")
    ratios = {name: v / given["ours"] if less else given["ours"] / v for name, v in given["peers"].items()}
    share = given["limit"] / given["ours"] if less else given["ours"] / given["limit"]
    return {
        "what": what,
        "bits": bits,
        "batch": batch,
        "prompt": 512,
        "ratios": ratios,
        "share": share,
    } | given


def test_a_new_result_replaces_its_rows_and_keeps_the_others() -> None:
    old = result_of(row(), row(bits=4), missing={"a": "gone"})
    new = replace_command(result_of(row(ours=50.0)))
    both = merged(old, new)
    assert [(one["bits"], one["ours"]) for one in both["rows"]] == [(8, 50.0), (4, 40.0)]
    assert both["runs"] == [{"ours": [50.0]}, {"ours": [40.0]}]
    assert both["command"] == "bench; again" and both["missing"] == {"a": "gone"}
    assert merged(None, new) == new == merged(result_of(row()), new)


def replace_command(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "command": "again"}


def bar(words: str) -> bars.Bar:
    (found,) = [one for one in bars.BARS if one.words.startswith(words)]
    return found


@pytest.mark.parametrize(
    ("words", "rows", "figure", "verdict"),
    [
        ("decode, 8 bits", [row(peers={"llama.cpp Q8_0": 20.0})], 2.0, "reached"),
        ("decode, 8 bits", [row(peers={"llama.cpp Q8_0": 32.0})], 1.25, "not reached"),
        (
            "decode, 8 bits",
            [row(peers={"llama.cpp Q8_0": 32.0}, limit=43.0)],
            1.25,
            "reached: 90 % of the limit",
        ),
        ("decode, 8 bits", [row(peers={"OpenVINO int8": 20.0})], None, "not measured"),
        ("decode, 8 bits", [row(batch=8, peers={"llama.cpp Q8_0": 20.0})], None, "not measured"),
        ("decode, 4 bits", [row(bits=4, peers={"llama.cpp Q4_0": 10.0, "llama.cpp Q4_K_M": 16.0})], 2.5,
         "reached"),
        (
            "prefill, our best over llama.cpp",
            [row("prefill", ours=90.0, peers={"llama.cpp Q8_0": 30.0}),
             row("prefill", bits=4, ours=60.0, peers={"llama.cpp Q4_0": 36.0})],
            2.5,
            "reached",
        ),
        (
            "MoE decode",
            [row("MoE decode", bits=8, peers={"llama.cpp Q8_0": 10.0}),
             row("MoE decode", bits=8, batch=8, peers={"llama.cpp Q8_0": 40.0})],
            1.0,
            "not reached",
        ),
        (
            "MoE decode",
            [row("MoE decode", bits=8, peers={"llama.cpp Q8_0": 10.0}), row("MoE decode", bits=4)],
            None,
            "not measured",
        ),
        ("decode with a long cache", [row("long decode", ours=72.0)], 0.72, "reached"),
        ("start of the process", [row("start-up", ours=2.9)], 2.9, "reached"),
        ("start of the process", [row("start-up", ours=3.1)], 3.1, "not reached"),
        ("memory beyond",
         [row("memory", ours=900.0, limit=800.0), row("memory", bits=4, ours=600.0, limit=440.0)],
         160.0, "not reached"),
        ("memory beyond", [], None, "not measured"),
    ],
)  # fmt: skip
def test_a_bar_is_its_figure_and_its_verdict(
    words: str, rows: list[dict[str, Any]], figure: float | None, verdict: str
) -> None:
    found = bar(words).figure(rows)
    assert found is None if figure is None else found is not None and math.isclose(found, figure)
    assert bar(words).verdict(rows) == verdict


def test_no_two_bars_have_the_same_words() -> None:
    assert len({one.words for one in bars.BARS}) == len(bars.BARS) == 15


# ---- pages -----------------------------------------------------------------------------------------------


def test_the_table_shows_every_figure_with_its_ratio_and_what_was_left_out() -> None:
    why = "dense: not installed: make peers"
    result = result_of(row(peers={"llama.cpp Q8_0": 20.0}), missing={"OpenVINO int8": why})
    result["runs"] = [{"ours": [38.0, 40.0, 42.0], "llama.cpp Q8_0": [20.0]}]
    text = table.table(result)
    line = next(line for line in text.splitlines() if line.startswith("| answer after 512"))
    assert line == (
        "| answer after 512, tokens/s | 8 | **40.0 ±5%** | 10.0 "
        "| - | 20.0, x 2.00 | int8 left out | 100 | 40% |"
    )
    assert f"- OpenVINO int8: {why}" in text
    assert "`bench` on: processor a slow one, threads 2." in text


def test_several_peers_of_a_family_are_told_apart() -> None:
    result = result_of(row(bits=4, peers={"llama.cpp Q4_0": 20.0, "llama.cpp Q4_K_M": 10.0}))
    assert "Q4_0 20.0, x 2.00<br>Q4_K_M 10.0, x 4.00" in table.table(result)


def test_the_table_of_bars_says_what_was_asked_and_what_was_found() -> None:
    text = table.bars(result_of(row("start-up", ours=2.5), row(peers={"llama.cpp Q8_0": 20.0})))
    assert "| start of the process to the first token | at most 3 s | - | 2.5 s | reached |" in text
    assert "| decode, 8 bits, over llama.cpp Q8_0 | at least x 1.60 | 32% | x 2.00 | reached |" in text
    assert "| memory beyond weights and cache | at most 150 MB | - | - | not measured |" in text


def test_a_bar_knows_which_share_of_the_limit_it_asks_for() -> None:
    rows = [row(bits=4, limit=80.0, peers={"llama.cpp Q4_0": 36.0, "llama.cpp Q4_K_M": 30.0})]
    assert bar("decode, 4 bits").needs(rows) == 2.0 * 36 / 80
    rows = [
        row("prefill", bits=8, limit=900.0, peers={"OpenVINO int8": 450.0}),
        row("prefill", bits=16, limit=500.0),
    ]
    assert bar("prefill, our best over OpenVINO").needs(rows) == 1.3 * 450 / 900
    assert bar("prefill, our best over llama").needs(rows) is None
    assert bar("memory").needs(rows) is None


def test_the_short_table_has_one_text_at_a_time() -> None:
    text = table.short(result_of(row("prefill"), row(), row(batch=8), row("MoE decode"), row("memory")))
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 3
    assert "| MoE, answer after 512 | 8 | **40.0** | - | - | - | 100 |" in text


def test_the_picture_is_drawn_and_knows_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    peers = {"llama.cpp Q8_0": 20.0, "OpenVINO int8": 30.0, "transformers bfloat16": 5.0}
    result = result_of(row(peers=peers), row("memory"), row(bits=4, plain=None))
    path = tmp_path / "new" / "shares.png"
    assert not plot.is_fresh(result, path)
    plot.plot(result, path)
    assert plot.is_fresh(result, path) and path.stat().st_size > 5000
    assert not plot.is_fresh(result_of(row()), path)


def test_the_stored_result_has_the_keys_that_the_pages_rely_on() -> None:
    if not RESULT.exists():
        pytest.skip("make bench writes it")
    result = json.loads(RESULT.read_text())
    assert set(result) == {"command", "machine", "versions", "missing", "rows", "runs"}
    assert len(result["rows"]) == len(result["runs"]) > 0
    assert all(set(one) == set(row()) for one in result["rows"])


def test_memory_is_that_of_the_task_and_products_are_those_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks.peers import limits

    monkeypatch.setattr(limits, "BUFFER", 1 << 20)
    machine = limits.Machine()
    machine.read, machine.peaks = [1e3], {"float32": [1e11]}
    own = machine.of_a_task()
    own.sample_reading()
    machine.peaks["float32"].append(3e11)
    assert len(own.read) == 1 and own.bandwidth > 1e6 and machine.read == [1e3]
    assert own.fastest == {"float32": 2e11}


def test_the_limit_of_a_step_is_reading_and_that_of_a_prompt_multiplying(tmp_path: Path) -> None:
    from benchmarks.peers.limits import Machine, limit
    from benchmarks.peers.models import shape
    from pureqwen.weights.save import write_json

    write_json(tmp_path / "config.json", shape("dense").to_dict())
    machine = Machine()
    machine.read, machine.peaks = [3e10, 1e10, 2e10], {"float32": [1e11], "bfloat16": [2e11], "int8": [9e12]}
    step = limit(Key("decode", 16, 1, 512), machine, tmp_path, "bfloat16")
    assert step == pytest.approx(2e10 / (596e6 * 2 + 512 * 114_688), rel=0.01)
    prompt = limit(Key("prefill", 16, 1, 512), machine, tmp_path, "bfloat16")
    assert prompt == pytest.approx(2e11 / (2 * 440e6 + 512 / 2 * 4 * 2048 * 28), rel=0.01)
    memory = limit(Key("memory", 16, 1, 1000), machine, tmp_path, "bfloat16")
    assert memory == pytest.approx(1192 + 114.7, rel=0.01)
