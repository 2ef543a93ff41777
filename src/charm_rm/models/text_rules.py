"""Conversations as the input of a model that runs elsewhere: its tokenizer, without its weights.

The rules are those of local scoring: one template, rendered once, exactly one BOS token or none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from charm_rm.data.prompts import Message
from charm_rm.data.tables import DataError

if TYPE_CHECKING:
    from charm_rm.models.scoring import RewardModel

NO_LIMIT = 10**9  # tokenizers that know no limit give an astronomic one


@dataclass(frozen=True)
class TextRules:
    """How conversations become the input of a served model, on this side of the wire.

    Attributes:
        encode: Conversations -> token ids of full length.
        text_of: Token ids -> the text that encodes to them; None where there is none.
        bos: Whether exactly one BOS token stands in front.
        template: Chat template, as Jinja text.
        max_length: Longest conversation in tokens that the model takes; None where unknown.
        warnings: What a user should know about this input, one line each.
        suffix: Ids put behind every conversation, cut or not; the score is read at the last.
        system_prompt: False where the template's own words before a conversation are taken off.
    """

    encode: Callable[[Sequence[Sequence[Message]]], list[list[int]]]
    text_of: Callable[[Sequence[int]], str | None]
    bos: bool
    template: str
    max_length: int | None
    warnings: tuple[str, ...] = ()
    suffix: tuple[int, ...] = ()
    system_prompt: bool = True


def load_text_rules(
    name: str,
    *,
    model: str | None = None,
    like: str | None = None,
    revision: str | None = None,
    system_prompt: bool = True,
    trust_remote_code: bool = False,
) -> TextRules:
    """The rules of a tokenizer and its chat template; no weights are fetched or read.

    Args:
        name: A directory or a hub id that holds the reward model's tokenizer.
        model: Hub id of the reward model, where it is not ``name``: its row in
            `charm_rm.models.known_models.KNOWN_REWARD_MODELS` counts.
        like: Hub id of a known reward model, whose row counts instead.
        revision: Branch, tag or commit on the hub; by default the main branch.
        system_prompt: False to take off what the template says by itself before a conversation.
        trust_remote_code: Whether to run code that comes with the tokenizer.

    Returns:
        The rules.

    Raises:
        DataError: If there is no tokenizer or no chat template, the template leaves out the
            response, or ``like`` is not in the table.

    Example:
        >>> load_text_rules("./no-such-tokenizer")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: ./no-such-tokenizer: no tokenizer there; give ...
    """
    from transformers import AutoTokenizer

    from charm_rm.models.encoding import (
        encode_conversations,
        expects_bos,
        find_input_faults,
        require_response,
    )
    from charm_rm.models.known_models import find_row
    from charm_rm.models.reward_models import find_suffix

    row, spec = find_row(name, like=like)
    if row is None and model is not None:
        _, spec = find_row(model)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{name}: no tokenizer there; give a directory or hub id of the reward model's"
        ) from error
    try:
        template = spec.template or str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(
            f"{name}: no chat template, so nothing says how to write a conversation; save the "
            "one it was trained with as chat_template.jinja there"
        ) from error
    require_response(tokenizer, template=template, where=name)
    bos = spec.bos if spec.bos is not None else expects_bos(tokenizer, template=template)
    suffix = find_suffix(tokenizer, spec, where=name)
    limits = (tokenizer.model_max_length, spec.max_length)
    system_prompt = system_prompt and spec.system_prompt is not False
    return TextRules(
        encode=partial(
            encode_conversations,
            tokenizer=tokenizer,
            bos=bos,
            template=template,
            system_prompt=system_prompt,
        ),
        text_of=partial(_text_of, tokenizer),
        bos=bos,
        template=template,
        max_length=min((n - len(suffix) for n in limits if n and n < NO_LIMIT), default=None),
        warnings=find_input_faults(tokenizer, template=template),
        suffix=suffix,
        system_prompt=system_prompt,
    )


def rules_of(model: "RewardModel") -> TextRules:
    """The rules of a loaded reward model, which do not keep its weights in memory.

    Args:
        model: The model.

    Returns:
        The rules.

    Example:
        >>> import torch
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> from charm_rm.models.heads import Head
        >>> from charm_rm.models.scoring import RewardModel
        >>> words = Tokenizer(models.WordLevel({"<s>": 0, "Hi": 1}, unk_token="<s>"))
        >>> model = RewardModel(
        ...     name="rm",
        ...     tokenizer=PreTrainedTokenizerFast(tokenizer_object=words),
        ...     backbone=torch.nn.Identity(),
        ...     head=Head("linear", {}, {}),
        ...     bos=False,
        ...     template="{{ messages[-1].content }}",
        ...     max_length=9,
        ...     dtype="float32",
        ...     device=torch.device("cpu"),
        ...     padded=False,
        ...     packed=False,
        ...     files=(),
        ... )
        >>> rules_of(model).encode([[{"role": "assistant", "content": "Hi"}]])
        [[1]]
    """
    import torch

    weightless = replace(model, backbone=torch.nn.Identity())
    return TextRules(
        encode=weightless.encode,
        text_of=partial(_text_of, model.tokenizer),
        bos=model.bos,
        template=model.template,
        max_length=model.max_length,
        warnings=model.warnings,
        suffix=model.suffix,
        system_prompt=model.system_prompt,
    )


def _text_of(tokenizer: Any, ids: Sequence[int]) -> str | None:
    text = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    read = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return text if list(read) == list(ids) else None
