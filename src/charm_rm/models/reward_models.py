"""Reward models: loaded so that the score can be trusted, or refused in one line.

A reward model is a plain callable, conversations -> scores. What one model needs that its files do
not say stands as a row of `charm_rm.models.known_models`; everything else is derived from its
tokenizer and configuration. The head is one trained output (`charm_rm.models.heads`), read from
safetensors, and always computes in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from charm_rm.data.tables import DataError
from charm_rm.models.adapters import adapter_base, adapter_files, load_adapter
from charm_rm.models.choices import DTYPES, choose_device, choose_dtype, choose_max_length
from charm_rm.models.encoding import (
    end_of_prompt_ids,
    expects_bos,
    find_input_faults,
    require_response,
)
from charm_rm.models.heads import HEAD_KINDS, Head, choose_head
from charm_rm.models.known_models import RewardModelSpec, find_row
from charm_rm.models.model_files import (
    ADAPTER_CONFIG,
    find_folder,
    load_backbone,
    load_config,
    load_tokenizer,
    read_template,
    read_tensors,
    tensor_shapes,
    weight_files,
)
from charm_rm.models.packing import enable_packing
from charm_rm.models.scoring import RewardModel

ROW_KEY = "charm_rm_row"  # in config.json of a fine-tuned model: the row that its base is read by


@dataclass(frozen=True)
class Source:
    """Where the parts of a model come from; ``row`` is its base's."""

    folder: Path
    base: Path | None
    config: Any
    revision: str | None
    adapter: bool = False
    row: str | None = None


def load_reward_model(
    name: str,
    *,
    base_model: str | None = None,
    like: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    exact: bool = False,
    system_prompt: bool = True,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> RewardModel:
    """A reward model, ready to score, or one line that says why it must not be used.

    Args:
        name: A local directory or a hub id. The directory may hold the trained part alone (the
            head, and any layers that were trained): its configuration, ``model.safetensors`` and,
            if it needs its own, ``chat_template.jinja``; everything else comes from the base. Or
            it is an adapter (LoRA), which is merged into its base and read by its base's row.
        base_model: Directory or hub id of the base of such a part; by default what the
            configuration names as ``base_model_name_or_path``.
        like: Hub id of a known reward model, by whose row this one is read; by default its own.
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``; by default bfloat16 where the
            device computes in it, else float32. The head is float32 in any case.
        device: PyTorch device; by default the GPU if there is one, else the CPU.
        max_length: Tokens at which a conversation is cut; by default the model's positions, or
            fewer where it was trained on fewer.
        exact: Whether each response is computed alone, so that nothing else enters its score.
        system_prompt: False to take off what the template says by itself before a conversation.
        trust_remote_code: Whether to run code that comes with the model.
        revision: Branch, tag or commit on the hub; by default the main branch.

    Returns:
        The model.

    Raises:
        DataError: If the directory or model is missing or unreadable, has no tokenizer, no chat
            template that writes the response, or no trained head with one output that this package
            knows how to read, or is one that its row refuses.
        ValueError: If an argument is out of its range.

    Example:
        >>> load_reward_model("./no-such-model")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-model: no such directory, nor a hub id; check it
    """
    find_spec(name, like=like)
    source = find_source(
        name, base_model=base_model, trust_remote_code=trust_remote_code, revision=revision
    )
    spec = find_spec(name, like=like or source.row)
    tokenizer = load_tokenizer(source.folder, source.base, trust_remote_code=trust_remote_code)
    template = read_template(source.folder, tokenizer, row=spec.template)
    require_response(tokenizer, template=template, where=name)
    suffix = find_suffix(tokenizer, spec, where=name)
    max_length = choose_max_length(max_length, source.config, spec, n_reserved=len(suffix))
    where, dtype = choose_device(device), choose_dtype(dtype, choose_device(device))
    head: Head
    if source.adapter and source.base is not None:
        files = adapter_files(source.folder, source.base)
        backbone, head = load_adapter(
            source.folder, source.base, source.config, dtype=DTYPES[dtype]
        )
    else:
        head = load_head(source, spec, where=name)
        backbone, files = _load_weights(source, head, DTYPES[dtype], trust_remote_code)
    require_vocabulary(tokenizer, backbone, where=name)
    backbone = backbone.to(where).eval()
    bos = spec.bos if spec.bos is not None else expects_bos(tokenizer, template=template)
    gate = end_of_prompt_ids(tokenizer, template=template) if head.reads_prompt else []
    return RewardModel(
        name=source.folder.resolve().name if Path(name).is_dir() else name,
        tokenizer=tokenizer,
        backbone=backbone,
        head=head.to(where),
        bos=bos,
        template=template,
        max_length=max_length,
        dtype=dtype,
        device=where,
        padded=where.type != "cpu",
        packed=where.type == "cpu" and enable_packing(backbone, max_length=max_length),
        files=files,
        warnings=find_input_faults(tokenizer, template=template),
        suffix=suffix,
        end_of_prompt=tuple(gate),
        system_prompt=system_prompt and spec.system_prompt is not False,
        exact=exact,
        revision=source.revision,
    )


def find_spec(name: str, *, like: str | None = None) -> RewardModelSpec:
    """The row by which a model is read; an empty one if it is not in the table.

    Args:
        name: A hub id or a directory.
        like: A hub id of the table whose row is used instead.

    Returns:
        The row.

    Raises:
        DataError: If ``like`` is not in the table, or the row says that the model is not read.

    Example:
        >>> find_spec("internlm/internlm2-7b-reward")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: internlm/internlm2-7b-reward: is not read here: its ...
    """
    row, spec = find_row(name, like=like)
    if spec.refusal:
        raise DataError(f"{row}: is not read here: {spec.refusal}")
    return spec


def find_source(
    name: str,
    *,
    base_model: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Source:
    """The directories of a model and of its base, if it has one, and its configuration.

    Args:
        name: A directory or a hub id.
        base_model: Directory or hub id of its base.
        trust_remote_code: Whether code that comes with the model may run.
        revision: Branch, tag or commit on the hub.

    Returns:
        Folder, base, configuration and commit.

    Raises:
        DataError: If one of them is missing or not usable.

    Example:
        >>> find_source("./no-such-model")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-model: no such directory, nor a hub id; check it
    """
    folder, commit = find_folder(name, revision=revision, trust_remote_code=trust_remote_code)
    if (folder / ADAPTER_CONFIG).is_file():
        adapted = base_model or adapter_base(folder)
        base = _find_base(adapted, of=name, trust_remote_code=trust_remote_code)
        config = load_config(base, trust_remote_code=trust_remote_code)
        config.num_labels = 1
        row, _ = find_row(adapted)
        return Source(folder, base, config, commit, adapter=True, row=row)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    row = getattr(config, ROW_KEY, None)
    base_name = base_model or getattr(config, "base_model_name_or_path", None)
    if base_name is None:
        return Source(folder, None, config, commit, row=row)
    base = _find_base(base_name, of=name, trust_remote_code=trust_remote_code)
    return Source(folder, base, config, commit, row=row)


def _find_base(base: str, *, of: str, trust_remote_code: bool) -> Path:
    try:
        folder, _ = find_folder(base, trust_remote_code=trust_remote_code)
    except DataError as error:
        raise DataError(f"{of}: its base is not to be had ({error}); give --base-model") from error
    return folder


def load_head(source: Source, spec: RewardModelSpec, *, where: str) -> Head:
    """The trained head of a model, in float32, as it is in its files.

    Args:
        source: As `find_source` gives it.
        spec: The row of the model.
        where: The model, for messages.

    Returns:
        The head.

    Raises:
        DataError: If it has none, one with several outputs, or one that nothing here reads.

    Example:
        >>> load_head(Source(Path("no"), None, None, None), RewardModelSpec(), where="rm")
        ... # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no: no model.safetensors; pickled weights ...
    """
    files = weight_files(source.folder)
    shapes = tensor_shapes(files)
    architectures = source.config.architectures or []
    if spec.head is None:
        _require_classifier(architectures, shapes, where=where)
    kind = choose_head(shapes, row=spec.head, where=where)
    rule = HEAD_KINDS[kind]
    n_outputs = shapes[rule.needs[0]][0][0]
    if spec.head in (None, "linear") and kind == "linear":
        n_outputs = max(n_outputs, source.config.num_labels)
    if rule.outputs is not None and n_outputs != rule.outputs:
        raise DataError(
            f"{where}: its head has {n_outputs} outputs (num_labels); a reward model has one"
        )
    rows = 1 if kind == "token logit" else None
    tensors = read_tensors(files, prefixes=rule.prefixes, rows=rows)
    floats = {key: value.float() for key, value in tensors.items() if value.is_floating_point()}
    return Head(kind, MappingProxyType(floats), _head_options(kind, source.config, spec, where))


def _head_options(kind: str, config: Any, spec: RewardModelSpec, where: str) -> Mapping[str, float]:
    if kind != "gated":
        return MappingProxyType({})
    default = spec.options.get("gating_temperature")
    temperature = getattr(config, "gating_temperature", default)
    if temperature is None:
        raise DataError(
            f"{where}: its config.json gives no gating_temperature, which its head needs; "
            "add the one it was trained with"
        )
    return MappingProxyType({"gating_temperature": float(temperature)})


def _require_classifier(
    architectures: list[str], names: Mapping[str, object], *, where: str
) -> None:
    """Refuses a model that no row vouches for and whose architecture is not one with a head."""
    found = ", ".join(architectures) or "no architecture"
    if any(name.startswith("v_head.") for name in names):
        return
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise DataError(
            f"{where}: this is a causal language model ({found}), no trained reward head; "
            "give a reward model"
        )
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise DataError(f"{where}: config.json names {found}; give a sequence classifier")


def find_suffix(tokenizer: Any, spec: RewardModelSpec, *, where: str) -> tuple[int, ...]:
    """Ids put behind every conversation, at the last of which the score is read.

    Args:
        tokenizer: The model's.
        spec: Its row.
        where: The model, for the message.

    Returns:
        One id, or none.

    Raises:
        DataError: If the tokenizer does not have the token that the row names.

    Example:
        >>> find_suffix(None, RewardModelSpec(), where="rm")
        ()
    """
    if spec.ends_with is None:
        return ()
    known = tokenizer.get_vocab()
    if spec.ends_with not in known:
        raise DataError(
            f"{where}: its score is read at {spec.ends_with!r}, which its tokenizer does not have; "
            "check its files"
        )
    return (int(known[spec.ends_with]),)


def require_vocabulary(tokenizer: Any, backbone: Any, *, where: str) -> None:
    """A tokenizer none of whose ids lies outside the embedding.

    Args:
        tokenizer: The model's.
        backbone: The model's.
        where: The model, for the message.

    Raises:
        DataError: If it has more tokens than the embedding has rows.

    Example:
        >>> from types import SimpleNamespace
        >>> backbone = SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(2, 4))
        >>> require_vocabulary(["a", "b"], backbone, where="rm")
    """
    n_rows = backbone.get_input_embeddings().num_embeddings
    if len(tokenizer) > n_rows:
        raise DataError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, the embedding only {n_rows}; "
            "tokenizer and model do not belong together"
        )


def _load_weights(
    source: Source, head: Head, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[torch.nn.Module, tuple[Path, ...]]:
    """The backbone in ``dtype``, and the files that it and the head came from."""
    files = (source.folder / "config.json", *weight_files(source.folder))
    if source.base is not None:
        files = (*files, *weight_files(source.base))
    backbone = load_backbone(
        source.base or source.folder,
        source.config,
        dtype=dtype,
        part=source.folder if source.base is not None else None,
        head=tuple(head.tensors),
        trust_remote_code=trust_remote_code,
    )
    return backbone, files
