"""Reward models: what each one expects, loaded so that its score can be trusted.

A reward model is a plain callable, conversations -> scores. What one model needs that its files do
not say stands as a row of ``KNOWN_REWARD_MODELS``; everything else is derived from its tokenizer
and configuration. Only sequence classifiers with one trained output named ``score`` are loaded,
only from safetensors, and the head always computes in float32.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from charm_rm.data.tables import DataError
from charm_rm.models.encoding import expects_bos, find_input_faults
from charm_rm.models.scoring import DTYPES, RewardModel

HEAD = "score."  # where transformers keeps the head of a sequence classifier
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class RewardModelSpec:
    """What a reward model expects, where its files do not say it or say it wrongly.

    Attributes:
        bos: True for exactly one BOS token, False for none, None to derive it from the tokenizer.
        max_length: Longest conversation of its training in tokens; None for the positions it has.
        template: Jinja chat template to use; None for the tokenizer's own.
    """

    bos: bool | None = None
    max_length: int | None = None
    template: str | None = None


KNOWN_REWARD_MODELS: Mapping[str, RewardModelSpec] = MappingProxyType(
    {
        "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": RewardModelSpec(bos=True),
        "weqweasdas/RM-Mistral-7B": RewardModelSpec(bos=True),
        # Its template writes a BOS and its tokenizer adds another; it was trained with none.
        "sfairXC/FsfairX-LLaMA3-RM-v0.1": RewardModelSpec(bos=False),
        "Ray2333/GRM-llama3-8B-distill": RewardModelSpec(bos=True),
        "CIR-AMS/BTRM_Qwen2_7b_0613": RewardModelSpec(bos=False),
        "Skywork/Skywork-Reward-V2-Llama-3.1-8B": RewardModelSpec(bos=True, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Llama-3.1-8B-40M": RewardModelSpec(bos=True, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Llama-3.2-1B": RewardModelSpec(bos=True, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Llama-3.2-3B": RewardModelSpec(bos=True, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": RewardModelSpec(bos=False, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Qwen3-1.7B": RewardModelSpec(bos=False, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Qwen3-4B": RewardModelSpec(bos=False, max_length=16_384),
        "Skywork/Skywork-Reward-V2-Qwen3-8B": RewardModelSpec(bos=False, max_length=16_384),
    }
)


def load_reward_model(
    name: str,
    *,
    base_model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> RewardModel:
    """A reward model, ready to score, or one line that says why it must not be used.

    Args:
        name: A local directory or a hub id. The directory may hold the trained part alone (the
            head, and any layers that were trained): its configuration, ``model.safetensors`` and,
            if it needs its own, ``chat_template.jinja``; everything else comes from the base.
        base_model: Directory or hub id of the base of such a part; by default what the
            configuration names as ``base_model_name_or_path``.
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``; by default bfloat16 where the
            device computes in it, else float32. The head is float32 in any case.
        device: PyTorch device; by default the GPU if there is one, else the CPU.
        max_length: Tokens at which a conversation is cut; by default the model's positions, or
            fewer where it was trained on fewer.
        trust_remote_code: Whether to run code that comes with the model.
        revision: Branch, tag or commit on the hub; by default the main branch.

    Returns:
        The model.

    Raises:
        DataError: If the directory or model is missing or unreadable, has no tokenizer or chat
            template, is not a sequence classifier with one output, or lacks trained weights.
        ValueError: If an argument is out of its range.

    Example:
        >>> load_reward_model("./no-such-model")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-model: no such directory, nor a hub id; check it
    """
    folder = _local_folder(name, revision=revision, trust_remote_code=trust_remote_code)
    config = _load_config(folder, trust_remote_code=trust_remote_code)
    _require_classifier(config, where=name)
    base_name = base_model or getattr(config, "base_model_name_or_path", None)
    base = None
    if base_name is not None:
        base = _local_folder(base_name, revision=None, trust_remote_code=trust_remote_code)
    spec = _find_spec(name)
    max_length = _choose_max_length(max_length, config, spec)
    tokenizer = _load_tokenizer(folder, base, trust_remote_code=trust_remote_code)
    template = _choose_template(spec, folder, tokenizer)
    where = _choose_device(device)
    dtype = _choose_dtype(dtype, where)
    backbone, head, files = _load_weights(
        folder, base, config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code
    )
    _require_vocabulary(tokenizer, backbone, where=name)
    bos = spec.bos if spec.bos is not None else expects_bos(tokenizer, template=template)
    return RewardModel(
        name=folder.resolve().name if Path(name).is_dir() else name,
        tokenizer=tokenizer,
        backbone=backbone.to(where).eval(),
        head=head.to(where).eval(),
        bos=bos,
        template=template,
        max_length=max_length,
        dtype=dtype,
        device=where,
        padded=where.type != "cpu",
        files=files,
        warnings=find_input_faults(tokenizer, template=template),
    )


def _local_folder(name: str, *, revision: str | None, trust_remote_code: bool) -> Path:
    """The directory of a model, fetched from the hub unless it is one already."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{name}: no config.json in this directory; give a model directory")
        return folder
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
            f"({_reason(error)}); check the name and the network"
        ) from error
    return Path(path)


def _find_spec(name: str) -> RewardModelSpec:
    """The row of a model, also of a local copy that keeps its name."""
    if Path(name).is_dir():
        copied = Path(name).resolve().name
        rows = [spec for key, spec in KNOWN_REWARD_MODELS.items() if key.endswith(f"/{copied}")]
        return rows[0] if rows else RewardModelSpec()
    return KNOWN_REWARD_MODELS.get(name, RewardModelSpec())


def _load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    if (folder / "adapter_config.json").is_file():
        raise DataError(f"{folder}: is an adapter; merge it into its base model first")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: its config.json is not usable ({_reason(error)}); check the model, or "
            "give --trust-remote-code if you trust the code that comes with it"
        ) from error


def _require_classifier(config: Any, *, where: str) -> None:
    """Refuses a model whose score would come from anything but one trained output."""
    architectures = config.architectures or []
    found = ", ".join(architectures) or "no architecture"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise DataError(
            f"{where}: this is a causal language model ({found}), no trained reward head; "
            "give a reward model"
        )
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise DataError(f"{where}: config.json names {found}; give a sequence classifier")
    if config.num_labels != 1:
        raise DataError(
            f"{where}: its head has {config.num_labels} outputs (num_labels); "
            "a reward model has one"
        )


def _choose_max_length(asked: int | None, config: Any, spec: RewardModelSpec) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if asked is None:
        known = [limit for limit in (positions, spec.max_length) if limit is not None]
        if not known:
            raise ValueError("the model does not say how long its input may be; give --max-length")
        return min(known)
    if asked < 1 or (positions is not None and asked > positions):
        raise ValueError(f"max_length is {asked}; this model takes 1 to {positions} tokens")
    return asked


def _choose_device(asked: str | None) -> torch.device:
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device is {asked!r}, which is not to be had: {_reason(error)}"
        ) from error
    return device


def _choose_dtype(asked: str | None, device: torch.device) -> str:
    if asked is None:
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        on_cpu = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bfloat16" if on_gpu or on_cpu else "float32"
    if asked not in DTYPES:
        raise ValueError(f"dtype is {asked!r}; give one of {', '.join(DTYPES)}")
    return asked


def _load_tokenizer(
    folder: Path, base: Path | None, *, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    for place in (folder, base):
        if place is not None and any((place / name).is_file() for name in TOKENIZER_FILES):
            try:
                return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
            except (OSError, ValueError, KeyError) as error:
                raise DataError(
                    f"{place}: its tokenizer can't be loaded ({_reason(error)}); check its files"
                ) from error
    raise DataError(f"{folder}: no tokenizer there; save the tokenizer beside the model")


def _choose_template(spec: RewardModelSpec, folder: Path, tokenizer: Any) -> str:
    beside = folder / "chat_template.jinja"
    if spec.template is not None:
        return spec.template
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(
            f"{folder}: no chat template, so nothing says how to write a conversation; save the "
            "one it was trained with as chat_template.jinja there"
        ) from error


def _require_vocabulary(tokenizer: Any, backbone: Any, *, where: str) -> None:
    n_rows = backbone.get_input_embeddings().num_embeddings
    if len(tokenizer) > n_rows:
        raise DataError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, the embedding only {n_rows}; "
            "tokenizer and model do not belong together"
        )


def _load_weights(
    folder: Path, base: Path | None, config: Any, *, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[torch.nn.Module, torch.nn.Module, tuple[Path, ...]]:
    """Backbone in ``dtype``, head in float32, and the files that they came from."""
    trained = _weight_files(folder)
    head_tensors = _read_tensors(trained, prefix=HEAD)
    if f"{HEAD}weight" not in head_tensors:
        raise DataError(
            f"{folder}: no trained reward head: its weights have no {HEAD}weight; "
            "a random head would be scored"
        )
    try:
        with _quiet_transformers():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                base or folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{base or folder}: its weights can't be loaded ({_reason(error)}); check its files"
        ) from error
    files = (folder / "config.json", *trained)
    missing = {key for key in report["missing_keys"] if not key.startswith(HEAD)}
    if base is not None:
        overlay = _read_tensors(trained)
        unknown = model.load_state_dict(overlay, strict=False).unexpected_keys
        if unknown:
            raise DataError(f"{folder}: tensor {unknown[0]!r} has no place in the model; check it")
        missing -= overlay.keys()
        files = (*files, *_weight_files(base))
    if missing:
        raise DataError(
            f"{base or folder}: {len(missing)} tensors of the model are not in its weights, "
            f"such as {min(missing)}; the files do not belong together"
        )
    # The head as it is in the file: a bfloat16 load would have rounded it.
    head = model.score.float()
    head.load_state_dict({key.removeprefix(HEAD): value for key, value in head_tensors.items()})
    return model.base_model, head, files


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model: one file or its shards, in the order of their names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise DataError(
            f"{folder}: no model.safetensors; pickled weights are not loaded, convert them"
        )
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return tuple(folder / name for name in sorted(set(shards)))


def _read_tensors(files: Sequence[Path], *, prefix: str = "") -> dict[str, torch.Tensor]:
    tensors = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                    if key.startswith(prefix):
                        tensors[key] = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: not a readable safetensors file ({_reason(error)}); fetch it again"
            ) from error
    return tensors


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps the loading report off the screen: what is missing is checked here, and refused."""
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


def _reason(error: BaseException) -> str:
    """The first sentence of a library's message, which may go on for a page."""
    sentence = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return sentence[:160] or type(error).__name__
