"""What an offline run of Weights & Biases holds, read from its file without the package."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(path: Path) -> Iterator[bytes]:
    """Payloads of a run file: a 7-byte head, then blocks of 32 KiB in LevelDB's log format."""
    content, offset, whole = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while offset + 7 <= len(content):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, offset)
        whole += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # the only or the last fragment
            yield whole
            whole = b""


def read_back(path: Path) -> dict[str, Any]:
    """An offline run file, once its writer, a process of its own, has put the last record there."""
    for _ in range(300):
        found = read_records(path)
        if "exit" in found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} has no exit record after 30 s")


def values(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def is_number(name: str, value: Any) -> bool:
    """Whether a value of the history was logged as a number, and not by the package itself."""
    return isinstance(value, int | float) and not name.startswith("_")


def read_records(path: Path) -> dict[str, Any]:
    """Name, group, job type, config, summary, history and exit code of an offline run file."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"config": {}, "summary": {}, "history": []}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {
                "name": record.run.display_name,
                "group": record.run.run_group,
                "job_type": record.run.job_type,
            }
            for item in record.run.config.update:
                found["config"][item.key] = json.loads(item.value_json)
        if kind == "summary":
            found["summary"] |= values(record.summary.update)
        if kind == "history":
            row = values(record.history.item)
            logged = {name: row[name] for name in row if is_number(name, row[name])}
            found["history"] += [logged] if logged else []
        if kind == "exit":
            found["exit"] = record.exit.exit_code
    return found
