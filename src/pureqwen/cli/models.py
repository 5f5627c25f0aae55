"""`pureqwen models`: the released models whose shape is known without a network."""

import json as json_lines
from typing import Annotated, Any

from pureqwen.cli.options import flag
from pureqwen.cli.terminal import plain_table, show_table
from pureqwen.config.presets import PresetInfo, preset_info, preset_names


def models(*, json: Annotated[bool, flag("A JSON list instead of a table.", negative="")] = False) -> None:
    """List the released models.

    "reconstructed" marks a configuration whose official file was not seen: it follows from its siblings'.
    """
    rows = [as_plain(preset_info(name)) for name in preset_names()]
    if json:
        print(json_lines.dumps(rows, indent=2))
        return
    table = plain_table("model", "kind", "weights", "config", "parameters", "active", "context", left=4)
    for row in rows:
        origin = "reconstructed" if row["reconstructed"] else "official"
        counts = (billions(row["parameters"]), billions(row["active_parameters"]), f"{row['context']:,}")
        table.add_row(row["hub_id"], row["kind"], row["quantization"] or "bfloat16", origin, *counts)
    show_table(table)


def as_plain(preset: PresetInfo) -> dict[str, Any]:
    config = preset.config
    return {
        "name": preset.name,
        "hub_id": preset.hub_id,
        "kind": preset.kind,
        "quantization": preset.quantization,
        "reconstructed": preset.reconstructed,
        "parameters": config.num_parameters(),
        "active_parameters": config.num_active_parameters(),
        "context": config.context_length,
    }


def billions(count: int) -> str:
    return f"{count / 1e9:.2f} B"
