"""The released files: the encoder, and the server in two parts, each a torch file of a plain state_dict.

Nothing is unpickled: torch.load takes tensors and containers alone (weights_only). A file that holds a whole pickled
module, as those of rows with pruning do, is a program and is refused.
"""

import hashlib
import io
import pickle
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, reading

ENCODER = "checkpoint_f_best.tar"
SERVER = ("checkpoint_cloud_best.tar", "checkpoint_classifier_best.tar")
LARGEST = 1 << 28  # bytes of one file; the largest published network has a sixth of it


def digests(folder: Path) -> dict[str, str]:
    """File -> sha256 of the encoder's files and, if present, the server's. UserError for half a server."""
    there = [name for name in SERVER if (folder / name).is_file()]
    if len(there) == 1:
        (lacking,) = set(SERVER) - set(there)
        raise UserError(f"{folder} has {there[0]} but no {lacking}; put both there (for the accuracy), or neither")
    return {name: hashlib.sha256(_content(folder / name)).hexdigest() for name in (ENCODER, *there)}


def read(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a released file, in the order of their layers. UserError for any other kind of file, and for a
    wrong checksum."""
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} was changed while it was read; run the same command again")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the loader fail in any way
        raise UserError(_refusal(path, error)) from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} holds no state_dict (names and tensors); give the file as it was published")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise UserError(f"{path}: '{name}' is no plain tensor; give the file as it was published")
    return dict(sorted(found.items(), key=lambda item: _layer(item[0])))  # stable: keeps the order within a layer


def widths(tensors: dict[str, Tensor]) -> list[int]:
    """Output channels of the conv layers, as `models.build` takes them."""
    return [tensor.shape[0] for tensor in tensors.values() if tensor.dim() == 4]


def fill(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Give `module` the tensors, one after the other. UserError naming the first that does not fit, or is not finite.

    Both are in the order of the layers. Names must end alike (`weight`, `running_var`), shapes must be equal.
    """
    ours = module.state_dict()
    for (name, tensor), (wanted, own) in zip_longest(tensors.items(), ours.items(), fillvalue=("nothing", None)):
        alike = name.rpartition(".")[2] == wanted.rpartition(".")[2]
        if tensor is None or own is None or tensor.shape != own.shape or not alike:
            raise UserError(
                f"{where} is of another architecture or data set: it has {_shown(name, tensor)} where this benchmark's "
                f"network has {_shown(wanted, own)}"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{where}: '{name}' has values that are not finite; the model is of no use")
    module.load_state_dict(dict(zip(ours, tensors.values(), strict=True)))


def _content(path: Path) -> bytes:
    try:
        with reading(path), open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; give the folder of a released model as it was published") from None
    if len(content) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 20} MiB, which no released model is; give another folder")
    return content


def _refusal(path: Path, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
        return (
            f"{path} is a whole pickled module (rows with pruning are published so), which is a program and is not run "
            'here: make a state_dict of it yourself, in a sandbox, as docs/DATA.md says under "Released models"'
        )
    return f"{path} is no file of tensors that torch can read ({type(error).__name__}); it is damaged: get it again"


def _layer(name: str) -> float:
    first = name.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _shown(name: str, tensor: Tensor | None) -> str:
    return "no further tensor" if tensor is None else f"'{name}' {list(tensor.shape)}"
