"""Checkpoints: a nested state as one safetensors file, written atomically and verified when read. No pickles."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import UserError, reading, writing
from benchmark.files import whole
from benchmark.text import named

FORMAT = "benchmark-checkpoint-2"


def save(path: Path, state: dict) -> None:
    """Write `state`, nested dictionaries and lists of tensors and JSON values, to `path`.

    The file appears by an atomic rename, so a reader sees the old one or the new one, never a part.
    Raises CannotWrite (no space left, read-only).
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(state, tensors))
    metadata = {"format": FORMAT, "structure": structure, "sha256": _digest(structure, tensors)}
    with writing(path), whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # the library's error for a full or read-only disk
            raise OSError(str(error)) from error


def load(path: Path) -> dict:
    """The state that `save` wrote, on the CPU. UserError for a missing, truncated, altered or foreign file; Unreadable
    (a UserError) for a file that may be intact."""
    remedy = "delete it and run again: it will be computed anew"
    _require_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path} is not a checkpoint of this program; {remedy}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if _digest(metadata["structure"], tensors) != metadata["sha256"]:
            raise UserError(f"the checkpoint {path} was altered since it was written; {remedy}")
        state = _restore(json.loads(metadata["structure"]), tensors)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        return state
    except UserError:
        raise
    except Exception as error:  # a file with a wrong structure can still have a valid digest
        raise UserError(f"the checkpoint {path} is damaged ({named(error)}); {remedy}") from error


def _require_readable(path: Path) -> None:
    """safetensors reports any file that it cannot open as missing."""
    try:
        with reading(path), open(path, "rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; run the training that makes it again") from None


def _flatten(value, tensors: dict[str, Tensor]):
    """The JSON skeleton of a nested value; its tensors go into `tensors` under running numbers."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors):05d}"
        # a copy: safetensors refuses tensors that share memory, and wants them contiguous on the CPU
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, tensors) for item in value]}
    return {"value": value}


def _restore(node: dict, tensors: dict[str, Tensor]):
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _restore(item, tensors) for key, item in content}
    if kind == "list":
        return [_restore(item, tensors) for item in content]
    return content


def _digest(structure: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(structure.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
