"""The files of a model: found on disk or on the hub, read, and never run.

Weights are safetensors; pickled ones are not loaded. Every function raises one line that names the
file and what to do, so that `charm doctor` can go on after one is at fault.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from charm_rm.data.tables import DataError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_folder(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Path, str | None]:
    """The directory of a model, fetched from the hub unless it is one already.

    Args:
        name: A directory or a hub id.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether code that comes with the model is fetched too.

    Returns:
        The directory, and the commit if it came from the hub.

    Raises:
        DataError: If it is neither, a directory of a revision, or the hub does not give it.

    Example:
        >>> find_folder("./no-such-model")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-model: no such directory, nor a hub id; check it
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if revision is not None:
            raise DataError(f"{name}: is a directory, which has no revisions; leave --revision out")
        if not any((folder / config).is_file() for config in ("config.json", ADAPTER_CONFIG)):
            raise DataError(f"{name}: no config.json in this directory; give a model directory")
        return folder, None
    if folder.exists() or not _HUB_ID.fullmatch(name):
        raise DataError(f"{name}: no such directory, nor a hub id; check it")
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        path = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns + (["*.py"] if trust_remote_code else []),
            ignore_patterns=["*/*"],
        )
    except (OSError, ValueError, HFValidationError) as error:
        raise DataError(
            f"{name}: no such directory, and the hub does not give it "
            f"({reason(error)}); check the name and the network"
        ) from error
    return Path(path), Path(path).name


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model.

    Args:
        folder: Its directory.
        trust_remote_code: Whether code that comes with it may run.

    Returns:
        What transformers makes of ``config.json``.

    Raises:
        DataError: If it is missing or not usable.

    Example:
        >>> load_config(Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-such-folder: no config.json; give a model directory
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no config.json; give a model directory")
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a wrong value makes the class of a model raise
        raise DataError(
            f"{folder}: its config.json is not usable ({reason(error)}); check the model, or "
            "give --trust-remote-code if you trust the code that comes with it"
        ) from error


def load_tokenizer(
    folder: Path, base: Path | None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, else that of its base.

    Args:
        folder: The model's directory.
        base: The directory of its base, if it has one.
        trust_remote_code: Whether code that comes with it may run.

    Returns:
        The tokenizer.

    Raises:
        DataError: If neither has one, or it can't be loaded.

    Example:
        >>> load_tokenizer(Path("no-such-folder"), None)
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-such-folder: no tokenizer there; save it beside the model
    """
    for place in (folder, base):
        if place is not None and any((place / name).is_file() for name in TOKENIZER_FILES):
            try:
                with quiet_transformers():
                    return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
            except Exception as error:  # whatever a broken tokenizer.json makes its parser raise
                raise DataError(
                    f"{place}: its tokenizer can't be loaded ({reason(error)}); check its files"
                ) from error
    raise DataError(f"{folder}: no tokenizer there; save it beside the model")


def read_template(folder: Path, tokenizer: Any, *, row: str | None = None) -> str:
    """The chat template of a model: its row's, the file beside the weights, or the tokenizer's.

    Args:
        folder: The model's directory.
        tokenizer: Its tokenizer.
        row: The template that its row gives.

    Returns:
        Jinja text.

    Raises:
        DataError: If there is none.

    Example:
        >>> read_template(Path("."), None, row="{{ messages[-1].content }}")
        '{{ messages[-1].content }}'
    """
    beside = folder / "chat_template.jinja"
    if row is not None:
        return row
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(
            f"{folder}: no chat template, so nothing says how to write a conversation; save the "
            "one it was trained with as chat_template.jinja there"
        ) from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model: one file or its shards, in the order of their names.

    Args:
        folder: Its directory.

    Returns:
        Their paths.

    Raises:
        DataError: If there are none, or the index of the shards can't be read or leads elsewhere.

    Example:
        >>> weight_files(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-such-folder: no model.safetensors; pickled weights ...
    """
    single, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise DataError(
            f"{folder}: no {WEIGHTS}; pickled weights are not loaded, convert them to safetensors"
        )
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if any(Path(name).name != name for name in shards):
            raise ValueError("a shard is no file of this directory")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        line = f"{index}: not an index of shards ({reason(error)}); fetch it again"
        raise DataError(line) from error
    return tuple(folder / name for name in sorted(shards))


def tensor_shapes(files: Sequence[Path]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names of stored tensors with shape and precision, from the headers alone.

    Args:
        files: Safetensors files.

    Returns:
        Name -> (shape, precision as safetensors writes it, such as ``"BF16"``).

    Raises:
        DataError: If a file can't be read.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "model.safetensors"
        >>> save_file({"score.weight": torch.zeros(1, 4)}, path)
        >>> tensor_shapes([path])
        {'score.weight': ((1, 4), 'F32')}
        >>> folder.cleanup()
    """
    found = {}
    for file, key in _stored(files):
        part = file.get_slice(key)
        found[key] = (tuple(part.get_shape()), str(part.get_dtype()))
    return found


def read_tensors(
    files: Sequence[Path], *, prefixes: tuple[str, ...] = ("",), rows: int | None = None
) -> dict[str, torch.Tensor]:
    """Stored tensors whose names begin with one of these.

    Args:
        files: Safetensors files.
        prefixes: Beginnings of names; by default all.
        rows: Read the first rows only.

    Returns:
        Name -> tensor, in the precision in which it is stored.

    Raises:
        DataError: If a file can't be read.

    Example:
        >>> read_tensors([])
        {}
    """
    return {
        key: file.get_slice(key)[:rows] if rows else file.get_tensor(key)
        for file, key in _stored(files)
        if key.startswith(prefixes)
    }


def _stored(files: Sequence[Path]) -> Iterator[tuple[Any, str]]:
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                    yield file, key
        except (OSError, SafetensorError) as error:
            line = f"{path}: not a readable safetensors file ({reason(error)}); fetch it again"
            raise DataError(line) from error


def load_backbone(
    folder: Path,
    config: Any,
    *,
    dtype: torch.dtype,
    part: Path | None = None,
    head: Collection[str] = (),
    trust_remote_code: bool = False,
) -> torch.nn.Module:
    """The layers of a model without any head, every one of them from its files.

    Args:
        folder: Where the weights lie.
        config: Configuration to build them by.
        dtype: Precision.
        part: Directory of the trained part, whose tensors replace those of the files.
        head: Names of its tensors that belong to the head.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The module: token ids -> hidden states.

    Raises:
        DataError: If the weights do not fit the configuration or a layer has none.

    Example:
        >>> import tempfile
        >>> from transformers import LlamaConfig, LlamaModel
        >>> tiny = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 8}
        >>> config = LlamaConfig(num_hidden_layers=1, num_attention_heads=2, **tiny)
        >>> folder = tempfile.TemporaryDirectory()
        >>> LlamaModel(config).save_pretrained(folder.name)
        >>> load_backbone(Path(folder.name), config, dtype=torch.float32).config.hidden_size
        8
        >>> folder.cleanup()
    """
    kind: Any = transformers.AutoModel
    if "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {}):
        kind = transformers.AutoModelForSequenceClassification if trust_remote_code else kind
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:  # whatever wrong files, or a missing library, make it raise
        line = f"{folder}: its weights can't be loaded ({reason(error)}); check its files"
        raise DataError(line) from error
    for key, stored, built in sorted(report["mismatched_keys"])[:1]:
        raise DataError(
            f"{folder}: {key} has shape {tuple(stored)} in its weights and {tuple(built)} by "
            "config.json; the files do not belong together"
        )
    backbone: torch.nn.Module = model.base_model
    prefix = f"{model.base_model_prefix}."
    missing = {key.removeprefix(prefix) for key in report["missing_keys"]}
    missing &= set(backbone.state_dict())
    if part is not None:
        missing -= _load_part(backbone, part, prefix=prefix, head=head)
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} tensors of the model are not in its weights, "
            f"such as {prefix}{min(missing)}; the files do not belong together"
        )
    return backbone


def _load_part(
    backbone: torch.nn.Module, part: Path, *, prefix: str, head: Collection[str]
) -> set[str]:
    """Puts the trained layers of a part in their places; returns their names."""
    stored = read_tensors(weight_files(part))
    trained = {key: value for key, value in stored.items() if key not in head}
    layers = {key.removeprefix(prefix): value for key, value in trained.items()}
    unknown = [key for key in trained if key.removeprefix(prefix) not in backbone.state_dict()]
    if unknown:
        raise DataError(f"{part}: tensor {unknown[0]!r} has no place in the model; check it")
    backbone.load_state_dict(layers, strict=False)
    return set(layers)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps the loading report off the screen: what is missing is checked here, and refused.

    Yields:
        Nothing.

    Example:
        >>> with quiet_transformers():
        ...     transformers.utils.logging.get_verbosity() == logging.ERROR
        True
    """
    library: Any = transformers.utils.logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def reason(error: BaseException) -> str:
    """The first sentence of a library's message, which may go on for a page.

    Args:
        error: What the library raised.

    Returns:
        At most 160 characters.

    Example:
        >>> reason(OSError("No such file. Check that ..."))
        'No such file'
    """
    sentence = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return sentence[:160] or type(error).__name__
