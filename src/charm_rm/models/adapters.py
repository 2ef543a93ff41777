"""Adapters of reward models: LoRA weights, merged in memory into their base.

What PEFT and TRL save: ``adapter_config.json``, ``adapter_model.safetensors`` with the low-rank
updates and, under ``modules_to_save``, the trained head. The sum is taken in float32 and rounded
once, to the precision that is asked for.
"""

import importlib.util
import json
import warnings
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers

from charm_rm.data.tables import DataError
from charm_rm.models.heads import Head
from charm_rm.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    quiet_transformers,
    reason,
    tensor_shapes,
    weight_files,
)

HEAD_MODULE = "score"


def adapter_base(folder: Path) -> str:
    """The base that an adapter names.

    Args:
        folder: The adapter's directory.

    Returns:
        A directory or hub id.

    Raises:
        DataError: If its configuration can't be read, or names none.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = (Path(folder.name) / "adapter_config.json").write_text("{}")
        >>> adapter_base(Path(folder.name))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ...: names no base; give --base-model
        >>> folder.cleanup()
    """
    path = folder / ADAPTER_CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base = settings.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not a readable configuration ({reason(error)}); check it"
        ) from error
    if not base:
        raise DataError(f"{path}: names no base; give --base-model")
    return str(base)


def adapter_files(folder: Path, base: Path) -> tuple[Path, ...]:
    """The files that decide the weights of an adapter's model.

    Args:
        folder: The adapter's directory.
        base: The directory of its base.

    Returns:
        Paths.

    Raises:
        DataError: If there are no safetensors.

    Example:
        >>> adapter_files(Path("no-adapter"), Path("no-base"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-adapter: no adapter_model.safetensors; pickled ...
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise DataError(
            f"{folder}: no {ADAPTER_WEIGHTS}; pickled weights are not loaded, convert them"
        )
    return (folder / ADAPTER_CONFIG, weights, base / "config.json", *weight_files(base))


def load_adapter(
    folder: Path, base: Path, config: Any, *, dtype: torch.dtype
) -> tuple[torch.nn.Module, Head]:
    """Layers and head of a base with an adapter merged into it.

    Args:
        folder: The adapter's directory.
        base: The directory of its base.
        config: Configuration of the base, for one output.
        dtype: Precision of the layers.

    Returns:
        The backbone, and the head in float32.

    Raises:
        DataError: If PEFT is missing, the weights do not fit, or nobody trained the head.

    Example:
        >>> load_adapter(Path("no-adapter"), Path("no-base"), None, dtype=torch.float32)
        ... # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-adapter: no adapter_model.safetensors; pickled ...
    """
    _, weights, _, *base_weights = adapter_files(folder, base)
    if importlib.util.find_spec("peft") is None:
        raise DataError(
            f"{folder}: is an adapter, which needs peft: pip install 'charm-rm[train]', "
            "or merge it into its base first"
        )
    names = [*tensor_shapes([weights]), *tensor_shapes(base_weights)]
    if not any(HEAD_MODULE in name.split(".") for name in names):
        raise DataError(
            f"{folder}: no trained reward head: neither the adapter nor its base has one; train "
            f'it with modules_to_save=["{HEAD_MODULE}"]'
        )
    merged = merge_adapter(folder, base, config)
    score = merged.get_submodule(HEAD_MODULE)
    tensors = {
        f"{HEAD_MODULE}.{name}": tensor.detach().float()
        for name, tensor in score.state_dict().items()
    }
    backbone: torch.nn.Module = merged.base_model.to(dtype)
    return backbone, Head("linear", MappingProxyType(tensors), MappingProxyType({}))


def merge_adapter(folder: Path, base: Path, config: Any) -> Any:
    """A base with its head and an adapter merged into both, in float32.

    Args:
        folder: The adapter's directory.
        base: The directory of its base.
        config: Configuration of the base, for one output.

    Returns:
        The sequence classifier.

    Raises:
        DataError: If the adapter does not fit its base.

    Example:
        >>> merge_adapter(Path("no-adapter"), Path("no-base"), None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-adapter: does not fit its base no-base ...
    """
    from peft import PeftModel

    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks for what was renamed
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                base, config=config, dtype=torch.float32, use_safetensors=True
            )
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
            return adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{folder}: does not fit its base {base} ({reason(error)}); give --base-model"
        ) from error
