"""Heads of reward models: how hidden states become a score, as plain functions.

A head is the tensors that a model stores for it and one function of them. The function gets the
hidden states of a few tokens of each conversation, in float32, shape (n, n_places, hidden), and
returns scores, shape (n,). The first place is always the token at which the score is read. No code
that comes with a model is run, and no layer is made up: a tensor that is missing is an error.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from charm_rm.data.tables import DataError

Tensors = Mapping[str, Tensor]
Options = Mapping[str, float]


@dataclass(frozen=True)
class HeadKind:
    """One way of reading a score off hidden states.

    Attributes:
        about: What it is, in a few words.
        prefixes: Beginnings of the names of its tensors, as stored beside the backbone's.
        needs: Tensors without which there is no such head.
        score: (tensors, states, options) -> scores.
        reads_prompt: Whether it also reads the state at the end of the prompt (second place).
        outputs: Size of the first dimension of the first needed tensor; None for any.
    """

    about: str
    prefixes: tuple[str, ...]
    needs: tuple[str, ...]
    score: Callable[[Tensors, Tensor, Options], Tensor]
    reads_prompt: bool = False
    outputs: int | None = 1


@dataclass(frozen=True)
class Head:
    """A head with its tensors; call it with states, shape (n, n_places, hidden).

    Attributes:
        kind: A key of ``HEAD_KINDS``.
        tensors: Its tensors by their stored names, float32.
        options: Numbers of the configuration that it needs, such as ``gating_temperature``.
    """

    kind: str
    tensors: Tensors
    options: Options

    def __call__(self, states: Tensor) -> Tensor:
        """Scores in score points, shape (n,)."""
        return HEAD_KINDS[self.kind].score(self.tensors, states.float(), self.options)

    @property
    def reads_prompt(self) -> bool:
        """Whether the states must hold the end of the prompt as a second place."""
        return HEAD_KINDS[self.kind].reads_prompt

    def to(self, device: torch.device) -> "Head":
        """The same head with its tensors on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Head(self.kind, MappingProxyType(moved), self.options)


def linear_score(tensors: Tensors, states: Tensor, options: Options) -> Tensor:
    """One linear output of the state at the first place, with a bias if one is stored.

    Args:
        tensors: One tensor that ends in ``weight``, shape (1, hidden), and maybe its ``bias``.
        states: Shape (n, n_places, hidden).
        options: None are used.

    Returns:
        Scores, shape (n,).

    Example:
        >>> weight = torch.tensor([[1.0, -1.0]])
        >>> linear_score({"score.weight": weight}, torch.tensor([[[3.0, 1.0]]]), {})
        tensor([2.])
    """
    del options
    weight = next(value for name, value in tensors.items() if name.endswith("weight"))
    bias = next((value for name, value in tensors.items() if name.endswith("bias")), None)
    return functional.linear(states[:, 0], weight, bias).squeeze(-1)


def mlp_score(tensors: Tensors, states: Tensor, options: Options) -> Tensor:
    """Linear layers with ReLU between them, on the state at the first place (INF-ORM, GRM).

    Args:
        tensors: ``PREFIX.N.weight`` and ``PREFIX.N.bias``; the layers follow their numbers.
        states: Shape (n, n_places, hidden).
        options: None are used.

    Returns:
        Scores, shape (n,).

    Example:
        >>> layers = {"score.0.weight": torch.eye(2), "score.2.weight": torch.ones(1, 2)}
        >>> mlp_score(layers, torch.tensor([[[3.0, -1.0]]]), {})
        tensor([3.])
    """
    del options
    return _stack(tensors, states[:, 0], functional.relu).squeeze(-1)


def attribute_score(tensors: Tensors, states: Tensor, options: Options) -> Tensor:
    """Means of attribute distributions, weighted by a network of the same state (URM).

    Args:
        tensors: ``score.weight``, shape (2 n_attributes, hidden), mean and spread by turns, and
            the layers ``weights.fc.N.weight`` and ``.bias`` with SELU between them.
        states: Shape (n, n_places, hidden).
        options: None are used.

    Returns:
        Scores, shape (n,).

    Example:
        >>> tensors = {
        ...     "score.weight": torch.tensor([[1.0], [9.0]]),
        ...     "weights.fc.0.weight": torch.tensor([[0.5]]),
        ... }
        >>> attribute_score(tensors, torch.tensor([[[2.0]]]), {})
        tensor([2.])
    """
    del options
    state = states[:, 0]
    means = functional.linear(state, tensors["score.weight"])[:, ::2]
    layers = {name: value for name, value in tensors.items() if name.startswith("weights.fc.")}
    return (means * _stack(layers, state, functional.selu)).sum(-1)


def gated_score(tensors: Tensors, states: Tensor, options: Options) -> Tensor:
    """Objectives of the response, weighted by a network of the prompt (ArmoRM, QRM).

    Each objective is one output, or the mean of its quantiles. The objectives are mixed by
    ``reward_transform_matrix`` if there is one. The weights are a softmax over a network of the
    state at the end of the prompt: linear layers, ReLU, and batch norms where they are stored.

    Args:
        tensors: ``regression_layer.weight``, shape (n_objectives * n_quantiles, hidden),
            ``gating.layers.N.*``, ``gating.logit_scale`` and maybe ``reward_transform_matrix``.
        states: Shape (n, 2, hidden): where the score is read, and the end of the prompt.
        options: ``gating_temperature``.

    Returns:
        Scores, shape (n,).

    Example:
        >>> tensors = {
        ...     "regression_layer.weight": torch.tensor([[1.0], [3.0], [5.0], [7.0]]),
        ...     "gating.layers.0.weight": torch.zeros(2, 1),
        ...     "gating.logit_scale": torch.ones(1),
        ... }  # two objectives of two quantiles each, equal weights
        >>> gated_score(tensors, torch.ones(1, 2, 1), {"gating_temperature": 10.0})
        tensor([4.])
    """
    layers = {name: value for name, value in tensors.items() if name.startswith("gating.layers.")}
    logits = _stack(layers, states[:, 1], functional.relu)
    weights = torch.softmax(logits / options["gating_temperature"], -1)
    weights = weights * tensors["gating.logit_scale"]
    outputs = functional.linear(states[:, 0], tensors["regression_layer.weight"])
    objectives = outputs.reshape(*weights.shape, -1).mean(-1)
    if "reward_transform_matrix" in tensors:
        objectives = objectives @ tensors["reward_transform_matrix"]
    return (weights * objectives).sum(-1)


def _stack(tensors: Tensors, state: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """A numbered stack of layers: linear ones, an activation between them, stored batch norms."""
    numbers = sorted({int(name.rsplit(".", 2)[1]) for name in tensors})
    prefix = next(iter(tensors)).rsplit(".", 2)[0]
    for number in numbers:
        name = f"{prefix}.{number}."
        weight, bias = tensors[f"{name}weight"], tensors.get(f"{name}bias")
        if f"{name}running_mean" in tensors:
            mean, var = tensors[f"{name}running_mean"], tensors[f"{name}running_var"]
            state = functional.batch_norm(state, mean, var, weight, bias)
        else:
            state = functional.linear(state, weight, bias)
            state = activation(state) if number != numbers[-1] else state
    return state


HEAD_KINDS: Mapping[str, HeadKind] = MappingProxyType(
    {
        "linear": HeadKind("one linear output", ("score.",), ("score.weight",), linear_score),
        "value": HeadKind("one linear output", ("v_head.",), ("v_head.weight",), linear_score),
        "value summary": HeadKind(
            "one linear output", ("v_head.",), ("v_head.summary.weight",), linear_score
        ),
        "value mlp": HeadKind(
            "linear, ReLU, linear",
            ("v_head.summary.",),
            ("v_head.summary.0.weight", "v_head.summary.2.weight"),
            mlp_score,
            outputs=None,
        ),
        "mlp": HeadKind(
            "linear, ReLU, linear",
            ("score.",),
            ("score.0.weight", "score.2.weight"),
            mlp_score,
            outputs=None,
        ),
        "attributes": HeadKind(
            "attribute means, weighted by a network of the response",
            ("score.", "weights."),
            ("score.weight", "weights.fc.0.weight"),
            attribute_score,
            outputs=None,
        ),
        "gated": HeadKind(
            "objectives, weighted by a network of the prompt",
            ("regression_layer.", "reward_transform_matrix", "gating."),
            ("regression_layer.weight", "gating.layers.0.weight", "gating.logit_scale"),
            gated_score,
            reads_prompt=True,
            outputs=None,
        ),
        "token logit": HeadKind(
            "the logit of token 0 after the last token",
            ("lm_head.",),
            ("lm_head.weight",),
            linear_score,
            outputs=None,
        ),
    }
)
DERIVED = ("linear", "value", "value summary")  # those that can be told from their tensors alone
ELSEWHERE = ("score.", "v_head.", "regression_layer.", "value_head.", "reward_head.", "classifier.")


def choose_head(names: Collection[str], *, row: str | None, where: str) -> str:
    """The kind of a model's head: the one of its row, or the one that its tensors show.

    Args:
        names: Of the tensors that the model stores.
        row: Kind that the table gives for it; None to derive it.
        where: The model, for the message.

    Returns:
        A key of ``HEAD_KINDS``.

    Raises:
        DataError: If the head is not among the tensors, or of a kind that only a row can tell.

    Example:
        >>> choose_head(["model.norm.weight", "score.weight"], row=None, where="rm")
        'linear'
    """
    kinds = (row,) if row is not None else DERIVED
    for kind in kinds:
        if all(name in names for name in HEAD_KINDS[kind].needs):
            return kind
    wanted = HEAD_KINDS[kinds[0]].needs[0]
    others = sorted(name for name in names if name.startswith(ELSEWHERE))
    if others and row is None:
        raise DataError(
            f"{where}: its head is stored as {', '.join(others[:3])}, which does not tell how a "
            "score is computed; give --like NAME if a known model has the same head, or serve it "
            "and give --endpoint"
        )
    raise DataError(
        f"{where}: no trained reward head: its weights have no {wanted}; "
        "a random head would be scored"
    )
