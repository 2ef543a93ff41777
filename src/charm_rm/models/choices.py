"""What a run computes with, where its user leaves it open: device, precision, length."""

from types import MappingProxyType
from typing import Any

import torch

from charm_rm.models.known_models import RewardModelSpec
from charm_rm.models.model_files import reason

DTYPES = MappingProxyType(
    {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
)


def choose_max_length(
    asked: int | None, config: Any, spec: RewardModelSpec, *, n_reserved: int = 0
) -> int:
    """Tokens of a conversation that are read; the rest is cut off and counted.

    Args:
        asked: What the user wants; None for all that the model takes.
        config: Its configuration.
        spec: Its row.
        n_reserved: Tokens that are put behind every conversation.

    Returns:
        Tokens, without the reserved ones.

    Raises:
        ValueError: If more is asked for than the model has positions, or nothing is known.

    Example:
        >>> from transformers import LlamaConfig
        >>> choose_max_length(None, LlamaConfig(max_position_embeddings=64), RewardModelSpec())
        64
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if asked is None:
        known = [limit for limit in (positions, spec.max_length) if limit is not None]
        if not known:
            raise ValueError("the model does not say how long its input may be; give --max-length")
        if min(known) <= n_reserved:
            raise ValueError(
                f"the model says that its input holds {min(known)} tokens, with {n_reserved} "
                "reserved; check config.json"
            )
        return min(known) - n_reserved
    if asked < 1 or (positions is not None and asked + n_reserved > positions):
        most = None if positions is None else positions - n_reserved
        raise ValueError(f"max_length is {asked}; this model takes 1 to {most} tokens")
    return asked


def choose_device(asked: str | None) -> torch.device:
    """The PyTorch device to compute on.

    Args:
        asked: Its name; None for the GPU if there is one, else the CPU.

    Returns:
        The device.

    Raises:
        ValueError: If it is not to be had, or computes nothing.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {asked!r}, which is not to be had: {reason(error)}") from error
    if device.type == "meta":
        raise ValueError("device is 'meta', which holds no numbers; give cpu or cuda")
    return device


def choose_dtype(asked: str | None, device: torch.device) -> str:
    """The precision of the backbone.

    Args:
        asked: A key of ``DTYPES``; None for bfloat16 where the device computes in it.
        device: Where it computes.

    Returns:
        A key of ``DTYPES``.

    Raises:
        ValueError: If it is no such key.

    Example:
        >>> choose_dtype("float32", torch.device("cpu"))
        'float32'
    """
    if asked is None:
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        on_cpu = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bfloat16" if on_gpu or on_cpu else "float32"
    if asked not in DTYPES:
        raise ValueError(f"dtype is {asked!r}; give one of {', '.join(DTYPES)}")
    return asked
