"""Checks of what a reward model computes with: architecture, head, labels, weights."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from charm_rm.data.tables import DataError
from charm_rm.models.doctor import Case, Check, Finding, split_fault
from charm_rm.models.heads import HEAD_KINDS
from charm_rm.models.model_files import ADAPTER_CONFIG, read_tensors
from charm_rm.models.reward_models import find_source, load_head

ACTIVATIONS = ("sigmoid", "softmax", "tanh")


def _check_architecture(case: Case) -> Finding:
    """What kind of model the configuration names."""
    if case.config is None:
        return Finding("architecture", "fail", *split_fault(case.faults["config"]))
    names = case.config.architectures or ["none"]
    figure = f"{', '.join(names)} ({case.config.model_type})"
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    if causal and case.spec.head is None and not any("v_head." in name for name in case.shapes):
        cure = "this is a causal language model, which gives no scores: give a reward model"
        return Finding("architecture", "fail", figure, cure)
    return Finding("architecture", "pass", figure)


def _check_labels(case: Case) -> Finding | None:
    """How many outputs the configuration says that the head has."""
    if case.config is None:
        return None
    n_labels = case.config.num_labels
    other_head = case.spec.head not in (None, "linear") or "v_head.weight" in case.shapes
    if n_labels != 1 and not other_head:
        cure = (
            "a reward model has one output: if its head has one, set num_labels to 1 in "
            "config.json; if it has more, it is a classifier"
        )
        return Finding("labels", "fail", f"num_labels is {n_labels}", cure)
    return Finding("labels", "pass", f"num_labels is {n_labels}")


def _check_head(case: Case) -> Finding | None:
    """Whether a trained head is among the weights, its shape and precision."""
    if case.config is None or not case.shapes:
        return None
    head = case.model.head if case.model else None
    if head is None and (case.folder / ADAPTER_CONFIG).is_file():
        return Finding("head", "fail", *split_fault(case.faults["model"]))
    if head is None:
        source = find_source(str(case.folder), base_model=str(case.base) if case.base else None)
        try:
            head = load_head(source, case.spec, where=case.name)
        except DataError as error:
            return Finding("head", "fail", *split_fault(str(error)))
    rule = HEAD_KINDS[head.kind]
    stored = [
        f"{name} {' x '.join(map(str, head.tensors[name].shape))} "
        f"{case.shapes.get(name, ((), 'merged'))[1]}"
        for name in rule.needs
    ]
    return Finding("head", "pass", f"{rule.about}: {', '.join(stored)}; computed in float32")


def _check_activation(case: Case) -> Finding | None:
    """Whether something in the configuration would squash the score elsewhere."""
    if case.config is None:
        return None
    settings = case.config.to_dict()
    named = [
        f"{key} {value!r}"
        for key, value in settings.items()
        if key != "hidden_act" and str(value).lower().rpartition(".")[2] in ACTIVATIONS
    ]
    nested = settings.get("sentence_transformers") or {}
    named += [f"{key} {value!r}" for key, value in nested.items() if "activation" in key]
    figure = "none here: the raw output is the score"
    if named:
        cure = "ask other tools for the raw output: function_to_apply='none', use_activation=false"
        return Finding("activation", "warn", f"{figure}; config.json names {named[0]}", cure)
    return Finding("activation", "pass", figure)


def _check_weights(case: Case) -> Finding | None:
    """Whether the weights can be read and every number in them is finite."""
    line = case.faults.get("weights") or case.faults.get("base")
    if line is not None:
        return Finding("weights", "fail", *split_fault(line))
    n_numbers, bad = 0, []
    for path in case.files:
        for name, tensor in read_tensors([path]).items():
            n_numbers += tensor.numel()
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad.append(name)
    if bad:
        figure = f"NaN or infinite numbers in {len(bad)} tensors, such as {bad[0]}"
        return Finding("weights", "fail", figure, "fetch the file again, or train again")
    return Finding("weights", "pass", f"{n_numbers:,} numbers, all finite")


def _check_loading(case: Case) -> Finding:
    """Whether `charm score` would take the model."""
    if case.model is None:
        return Finding("loading", "fail", *split_fault(case.faults["model"]))
    return Finding("loading", "pass", f"{case.model.dtype} on {case.model.device}")


WEIGHT_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "architecture": _check_architecture,
        "labels": _check_labels,
        "head": _check_head,
        "activation": _check_activation,
        "weights": _check_weights,
        "loading": _check_loading,
    }
)
