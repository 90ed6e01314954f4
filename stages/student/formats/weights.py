"""Weights in files that may be larger than memory: mapped, read a block at a time, written as a stream.

A mapped file counts as memory in use as far as it was touched. What reads a whole file therefore maps it
anew for every block, or gives pages back with `release`: they stay in the system's cache. The peak of
`export` fell so from 1.26 times the model to 0.47.
"""

import ctypes
import hashlib
import json
import mmap
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from stages.core.errors import UserError, reason
from stages.core.files import reserve

PIECE = 1 << 21  # elements: 8 MiB in float32, which stays in cache and is not given back between pieces
SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


def load_state(directory: Path, shared: bool = False) -> dict[str, torch.Tensor]:
    """Litgpt's state of a checkpoint directory, memory-mapped; `shared` writes to a tensor reach the file.

    Raises UserError when lit_model.pth is missing or damaged.
    """
    file = Path(directory) / "lit_model.pth"
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    try:
        with torch.serialization.set_default_mmap_options(flags):
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{file}: missing or damaged ({reason(error)}); make it again") from None


def release(mapped: torch.Tensor) -> None:
    """Give back the pages of a tensor of `load_state` that was read; they stay in the system's cache.

    Of no other tensor: one that is not mapped from a file, or was written to, would lose its values.
    """
    start = -(-mapped.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = mapped.data_ptr() + mapped.nbytes - start
    if length > 0:
        advise = ctypes.CDLL(None).madvise
        advise(
            ctypes.c_void_p(start),
            ctypes.c_size_t(length // mmap.PAGESIZE * mmap.PAGESIZE),
            mmap.MADV_DONTNEED,
        )


def release_as_it_runs(model: torch.nn.Module, directory: Path) -> None:
    """Let each layer give back what it has mapped from the files of `directory`, whenever it has run."""
    places = _mapped_from(Path(directory).resolve())
    for layer in model.modules():
        mapped = [
            p.data for p in layer.parameters(recurse=False) if any(p.data_ptr() in place for place in places)
        ]
        if mapped:
            layer.register_forward_hook(partial(_release_all, mapped))


def _release_all(tensors: list[torch.Tensor], *_) -> None:
    for tensor in tensors:
        release(tensor)


def _mapped_from(directory: Path) -> list[range]:
    """Addresses of this process's memory that are pages of a file of `directory` (man 5 proc_pid_maps)."""
    maps = Path("/proc/self/maps")  # of Linux
    fields = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
    spans = [field[0].split("-") for field in fields if Path(field[-1]).parent == directory]
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def create_state(directory: Path, like: dict[str, torch.Tensor]) -> None:
    """A lit_model.pth with the shapes, dtypes and shared tensors of `like`, to be filled through a map.

    Only the layout is written, so that no tensor of `like` needs to be in memory. The checksums of the zip
    format are left at zero; torch does not look at them. Raises OSError where the disk has no room for all.
    """
    with torch.serialization.skip_data():
        torch.save(like, Path(directory) / "lit_model.pth")
    reserve(Path(directory) / "lit_model.pth")


def blocks(names: Iterable[str]) -> list[list[str]]:
    """The names of each layer together, any other name alone, in the order of first appearance."""
    by_layer: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        by_layer.setdefault(number[1] if number else name, []).append(name)
    return list(by_layer.values())


def pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of some rows each, of about PIECE elements."""
    return tensor.split(max(1, PIECE // tensor[0].numel()))


def write_safetensors(
    path: Path, layout: dict[str, torch.Tensor], tensors: Iterable[tuple[str, torch.Tensor]]
) -> str:
    """Write `tensors`, which come one by one in the order of `layout` (name → any tensor of that shape).

    Returns the file's sha256. The safetensors library takes all tensors at once. The format: the header's
    length (8 bytes, little endian), a JSON header padded to 8 bytes, the data
    (https://huggingface.co/docs/safetensors).
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, like in layout.items():
        start, end = end, end + like.numel() * like.element_size()
        offsets = {"data_offsets": [start, end]}
        header[name] = {"dtype": SAFETENSORS[like.dtype], "shape": list(like.shape), **offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    with open(path, "wb") as stream, ThreadPoolExecutor(1) as beside:
        stream.write(head)
        for (expected, like), (name, tensor) in zip(layout.items(), tensors, strict=True):
            assert (expected, like.shape, like.dtype) == (name, tensor.shape, tensor.dtype)
            data = tensor.contiguous().view(torch.uint8).numpy()
            # beside the writing: 0.4 s more for a 1.1B model, where a second reading took 1.3
            hashed = beside.submit(digest.update, data)
            stream.write(data)
            hashed.result()
    return digest.hexdigest()


class Unfilled(TorchFunctionMode):
    """Inside, layers get parameters on the meta device, and nothing is drawn for them.

    Unlike in `with torch.device("meta")`, what is computed is computed on the CPU: on the meta device
    `normal_` and `div` import torch's compiler (0.80 s for an empty 1.1B model; 0.06 s so).
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.empty, torch.ones, torch.zeros):
            kwargs = {**kwargs, "device": kwargs.get("device") or "meta"}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


class Float32(TorchFunctionMode):
    """Inside, layers compute in float32 whatever their weights are stored in, cast a piece at a time.

    So a memory-mapped bfloat16 model computes what its float32 copy would, and no such copy is made.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return EXACT.get(function, function)(*args, **(kwargs or {}))


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if weight.dtype == torch.float32:
        return F.linear(x, weight, bias)
    parts = pieces(weight)
    exact = torch.empty(parts[0].shape)  # one for all: malloc would not give a freed piece to the next one
    y = torch.cat([F.linear(x, exact[: len(part)].copy_(part)) for part in parts], dim=-1)
    return y if bias is None else y + bias


def _embedding(ids: torch.Tensor, weight: torch.Tensor, *rest, **options) -> torch.Tensor:
    return F.embedding(ids, weight, *rest, **options).float()


def _layer_norm(x: torch.Tensor, shape, weight=None, bias=None, eps: float = 1e-5) -> torch.Tensor:
    weight, bias = (value if value is None else value.float() for value in (weight, bias))
    return F.layer_norm(x, shape, weight, bias, eps)


EXACT = {F.linear: _linear, F.embedding: _embedding, F.layer_norm: _layer_norm}
