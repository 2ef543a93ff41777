"""A check-up of a reward model: every fault that shows, each with its cure, in one run.

Nothing stops at the first fault. `open_case` reads what can be read and keeps one line for each
part that can't; the checks are small functions, each from the case to a `Finding` or to None where
it has nothing to look at. What is right for this package is told apart from what is right for
others: a model may score well here and still be read wrongly by another tool.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from charm_rm.data.tables import DataError
from charm_rm.models.adapters import adapter_base
from charm_rm.models.known_models import RewardModelSpec, find_row
from charm_rm.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    find_folder,
    load_config,
    load_tokenizer,
    read_template,
    reason,
    tensor_shapes,
    weight_files,
)
from charm_rm.models.reward_models import find_source, load_reward_model
from charm_rm.models.scoring import RewardModel

Status = Literal["pass", "warn", "fail"]
Part = TypeVar("Part")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Of the check, one or two words.
        status: ``"pass"``; ``"warn"`` for what other tools may get wrong or what costs precision;
            ``"fail"`` for scores that can't be had or can't be trusted.
        figure: What was seen or measured.
        cure: What to do; empty for a pass.
    """

    name: str
    status: Status
    figure: str
    cure: str = ""


@dataclass(frozen=True)
class Case:
    """What could be read of a model, whatever else is broken.

    Attributes:
        name: As the user gave it.
        row: Hub id of the row by which it is read; None if its rules are derived.
        spec: That row, empty if there is none.
        folder: Its directory.
        base: The directory of its base, if it has one.
        config: Its configuration; None if not usable.
        tokenizer: Its tokenizer; None if there is none.
        template: Its chat template; None if there is none.
        files: Its safetensors and those of its base.
        shapes: Name -> (shape, precision) of the tensors stored for the model itself.
        base_shapes: The same for its base.
        model: Loaded and ready; None if it does not load.
        faults: Part -> the line that says why it can't be had.
    """

    name: str
    row: str | None
    spec: RewardModelSpec
    folder: Path
    base: Path | None
    config: Any
    tokenizer: Any
    template: str | None
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    base_shapes: Mapping[str, tuple[tuple[int, ...], str]]
    model: RewardModel | None
    faults: Mapping[str, str]


Check = Callable[[Case], Finding | None]


def open_case(name: str, *, base_model: str | None = None, **loading: Any) -> Case:
    """Everything that can be read of a model; what can't is one line in ``faults``.

    Args:
        name: A directory or a hub id.
        base_model: Directory or hub id of its base.
        loading: What `charm_rm.models.reward_models.load_reward_model` takes.

    Returns:
        The case.

    Raises:
        DataError: If there is no such model at all, or no such row as ``like`` asks for.

    Example:
        >>> open_case("./no-such-model")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-model: no such directory, nor a hub id; check it
    """
    row, spec = find_row(name, like=loading.get("like"))
    trusted: dict[str, Any] = {"trust_remote_code": loading.get("trust_remote_code", False)}
    folder, _ = find_folder(name, revision=loading.get("revision"), **trusted)
    faults: dict[str, str] = {}

    def attempt(part: str, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except (DataError, ValueError, OSError) as error:
            faults[part] = str(error)
        except Exception as error:  # a broken model may make any library raise anything
            faults[part] = f"{name}: {type(error).__name__}: {reason(error)}"
        return None

    config = base_name = None
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if adapter:
        base_name = base_model or attempt("config", lambda: adapter_base(folder))
    else:
        config = attempt("config", lambda: load_config(folder, **trusted))
        base_name = base_model or getattr(config, "base_model_name_or_path", None)
    found = attempt("base", lambda: find_folder(str(base_name), **trusted)) if base_name else None
    base = found[0] if found else None
    if adapter and base is not None:
        source = attempt("config", lambda: find_source(name, base_model=str(base), **trusted))
        config = source.config if source else None
        if row is None and loading.get("like") is None:
            row, spec = find_row(str(base_name))
    tokenizer = attempt("tokenizer", lambda: load_tokenizer(folder, base, **trusted))
    template = None
    if tokenizer is not None:
        template = attempt("template", lambda: read_template(folder, tokenizer, row=spec.template))
    own_files = (lambda: (folder / ADAPTER_WEIGHTS,)) if adapter else lambda: weight_files(folder)
    files = attempt("weights", own_files) or ()
    base_files = (attempt("base", lambda: weight_files(base)) if base else None) or ()
    return Case(
        name=name,
        row=row,
        spec=spec,
        folder=folder,
        base=base,
        config=config,
        tokenizer=tokenizer,
        template=template,
        files=(*files, *base_files),
        shapes=attempt("weights", lambda: tensor_shapes(files)) or {},
        base_shapes=attempt("base", lambda: tensor_shapes(base_files)) or {},
        model=attempt("model", lambda: load_reward_model(name, base_model=base_model, **loading)),
        faults=MappingProxyType(faults),
    )


def examine(case: Case, checks: Mapping[str, Check]) -> tuple[Finding, ...]:
    """The findings of all checks, in their order; a check that breaks is a finding too.

    Args:
        case: As `open_case` returns it.
        checks: Name -> function.

    Returns:
        One finding per check that had something to look at.

    Example:
        >>> case = Case("rm", None, RewardModelSpec(), Path("."), *[None] * 4, (), {}, {}, None, {})
        >>> examine(case, {"bos": lambda case: Finding("bos", "pass", "one")})[0].figure
        'one'
    """
    findings = []
    for name, check in checks.items():
        try:
            finding = check(case)
        except Exception as error:  # the other checks must still be made
            finding = Finding(
                name,
                "fail",
                f"could not be checked: {type(error).__name__}: {reason(error)}",
                "mend what else failed, then look again",
            )
        if finding is not None:
            findings.append(finding)
    return tuple(findings)


def split_fault(line: str) -> tuple[str, str]:
    """An error line of this package as figure and cure: what was wrong, and what to do.

    Args:
        line: One line, the last part of which says what to do.

    Returns:
        Both parts.

    Example:
        >>> split_fault("rm: no tokenizer there; save it beside the model")
        ('rm: no tokenizer there', 'save it beside the model')
    """
    figure, _, cure = line.rpartition("; ")
    return (figure, cure) if figure else (line, "check its files")
