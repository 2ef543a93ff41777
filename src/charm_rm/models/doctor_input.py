"""Checks of what a reward model reads: tokenizer, template, BOS, padding, length.

Most faults here do not touch scores made by this package, which counts tokens instead of looking
for padding; they are reported because the model was trained, or will be served, by other tools.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from charm_rm.models.choices import choose_max_length
from charm_rm.models.doctor import Case, Check, Finding, split_fault
from charm_rm.models.encoding import (
    encode_conversations,
    expects_bos,
    find_input_faults,
    text_before_first_turn,
)
from charm_rm.models.sample_texts import sample_conversations

UNLIMITED = 10**9  # tokenizers without a limit give a huge number
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "embed_in.weight")


def _check_row(case: Case) -> Finding:
    """Whether the table knows the model, and which rules are derived if it does not."""
    if case.row is None:
        figure = "not in the table: BOS, template, head and length are derived from its files"
        return Finding("table", "pass", figure)
    if case.spec.refusal:
        return Finding("table", "fail", f"{case.row} is not read here", case.spec.refusal)
    rules = {
        "BOS": case.spec.bos is not None,
        "template": case.spec.template is not None,
        "head": case.spec.head is not None,
        "length": case.spec.max_length is not None,
    }
    derived = ", ".join(name for name, given in rules.items() if not given)
    figure = f"read by the row of {case.row}"
    return Finding("table", "pass", figure + (f"; derived: {derived}" if derived else ""))


def _check_tokenizer(case: Case) -> Finding:
    """Whether there is a tokenizer, and transformers reads it as its file says."""
    if case.tokenizer is None:
        return Finding("tokenizer", "fail", *split_fault(case.faults["tokenizer"]))
    figure = f"{len(case.tokenizer):,} tokens ({type(case.tokenizer).__name__})"
    for fault in find_input_faults(case.tokenizer, template=""):
        cure = "pin the release of transformers that it was trained with, or mend tokenizer.json"
        return Finding("tokenizer", "warn", fault, cure)
    return Finding("tokenizer", "pass", figure)


def _check_vocabulary(case: Case) -> Finding | None:
    """Whether every id of the tokenizer, the padding among them, has a row of the embedding."""
    shapes = {**case.base_shapes, **case.shapes}
    found = [shape for name, (shape, _) in shapes.items() if name.endswith(EMBEDDINGS)]
    n_rows = found[0][0] if found else getattr(case.config, "vocab_size", None)
    if case.tokenizer is None or n_rows is None:
        return None
    pad = getattr(case.config, "pad_token_id", None)
    highest = max(case.tokenizer.get_vocab().values(), default=0)
    figure = f"ids up to {highest:,}, embedding of {n_rows:,} rows"
    if highest >= n_rows:
        cure = "tokenizer and model do not belong together: take the tokenizer it was trained with"
        return Finding("vocabulary", "fail", figure, cure)
    if pad is not None and not 0 <= pad < n_rows:
        cure = "set pad_token_id in config.json to an id of the tokenizer"
        return Finding("vocabulary", "fail", f"{figure}; pad_token_id is {pad}", cure)
    return Finding("vocabulary", "pass", figure)


def _check_template(case: Case) -> Finding | None:
    """Whether there is a chat template, and whether it says anything of its own."""
    if case.tokenizer is None:
        return None
    if case.template is None:
        return Finding("template", "fail", *split_fault(case.faults["template"]))
    example = _ids(case, bos=False)[0]
    shown = repr(case.tokenizer.decode(example))
    added = text_before_first_turn(case.tokenizer, template=case.template)
    if "strftime_now" in case.template:
        cure = "put the date of training into chat_template.jinja in place of strftime_now"
        return Finding("template", "warn", "it writes today's date: scores change by the day", cure)
    if added:
        cure = "give --no-system-prompt if it was trained without these words"
        return Finding("template", "warn", f"it says by itself, first: {added[:120]!r}", cure)
    return Finding("template", "pass", f"{shown[:90]}{'...' if len(shown) > 90 else ''}")


def _check_bos(case: Case) -> Finding | None:
    """How many BOS tokens stand in front: here, by the template, and in the usual two steps."""
    if case.tokenizer is None or case.template is None:
        return None
    tokenizer = case.tokenizer
    if tokenizer.bos_token_id is None:
        return Finding("BOS", "pass", "none: the tokenizer has no BOS token")
    wanted = _wants_bos(case)
    here = _leading(_ids(case)[0], tokenizer.bos_token_id)
    text = _rendered(case)
    by_template = _leading(
        tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.bos_token_id
    )
    in_two_steps = _leading(tokenizer(text)["input_ids"], tokenizer.bos_token_id)
    figure = (
        f"{here} here; the template writes {by_template}, tokenising its text gives {in_two_steps}"
    )
    if by_template > 1:
        cure = "take all but one BOS token out of the chat template"
        return Finding("BOS", "fail", figure, cure)
    if here != int(wanted):
        cure = "check bos_token in the tokenizer's files"
        return Finding("BOS", "fail", f"{figure}; {int(wanted)} wanted", cure)
    if in_two_steps > 1:
        cure = "elsewhere, render and then tokenise with add_special_tokens=False"
        return Finding("BOS", "warn", figure, cure)
    return Finding("BOS", "pass", figure)


def _check_padding(case: Case) -> Finding | None:
    """Whether tokenizer and configuration agree on the padding, and what ends a conversation."""
    if case.tokenizer is None:
        return None
    tokenizer = case.tokenizer
    configured = getattr(case.config, "pad_token_id", None)
    figure = (
        f"pad {tokenizer.pad_token!r} ({tokenizer.pad_token_id}), "
        f"end {tokenizer.eos_token!r} ({tokenizer.eos_token_id}), config.json pads {configured}"
    )
    if tokenizer.pad_token_id is None and configured is None:
        cure = "set a pad token; other tools can't score batches without one"
        return Finding("padding", "warn", figure, cure)
    if tokenizer.pad_token_id is not None and configured not in (None, tokenizer.pad_token_id):
        cure = "set pad_token_id in config.json to the tokenizer's"
        return Finding("padding", "warn", figure, cure)
    if case.spec.pad is not None and tokenizer.pad_token != case.spec.pad:
        cure = f"its padding token is {case.spec.pad!r}: take the tokenizer that came with it"
        return Finding("padding", "warn", figure, cure)
    return Finding("padding", "pass", figure)


def _check_pooling(case: Case) -> Finding | None:
    """Which token others read: the rightmost that is no padding, or the one before the first."""
    if case.tokenizer is None or case.template is None or case.config is None:
        return None
    pad = getattr(case.config, "pad_token_id", None)
    pad = case.tokenizer.pad_token_id if pad is None else pad
    ids = [*_ids(case)[0], *(case.model.suffix if case.model else ())]
    last = len(ids) - 1
    rightmost = max((at for at, token in enumerate(ids) if token != pad), default=last)
    first = ids.index(pad) - 1 if pad in ids else last
    figure = (
        f"read here at token {last + 1} of {last + 1}, by transformers at {rightmost + 1}, "
        f"before the first padding token at {first % len(ids) + 1}"
    )
    if rightmost != last:
        cure = (
            "the conversation ends with the padding token, so a head trained by transformers or "
            "TRL learned at another token: give the tokenizer a padding token of its own"
        )
        return Finding("pooling", "fail", figure, cure)
    if first != last:
        cure = (
            "fine here and in transformers 5; tools that look for the first padding token read "
            "another: a padding token of its own would make them agree"
        )
        return Finding("pooling", "warn", figure, cure)
    return Finding("pooling", "pass", figure)


def _check_side(case: Case) -> Finding | None:
    """On which side the tokenizer pads; here it makes no difference."""
    if case.tokenizer is None:
        return None
    side = case.tokenizer.padding_side
    if side != "right":
        cure = "set padding_side to right in tokenizer_config.json; scores here do not depend on it"
        figure = f"{side}: tools that read token number (sum of the mask) read another one"
        return Finding("padding side", "warn", figure, cure)
    return Finding("padding side", "pass", side)


def _check_length(case: Case) -> Finding | None:
    """How many tokens are read, and whether anything cuts earlier without a word."""
    if case.tokenizer is None or case.template is None or case.config is None:
        return None
    try:
        most = choose_max_length(None, case.config, case.spec)
    except ValueError as error:
        return Finding("length", "fail", str(error), "give --max-length TOKENS")
    most = case.model.max_length if case.model else most
    long_one = [*sample_conversations()[0][:1], {"role": "assistant", "content": "word " * most}]
    n_read = len(
        encode_conversations(
            [long_one], case.tokenizer, bos=_wants_bos(case), template=case.template
        )[0]
    )
    own = case.tokenizer.model_max_length
    figure = f"{most:,} tokens; a longer response loses its end, is marked and counted"
    if n_read <= most:
        cure = "take the truncation out of tokenizer.json"
        return Finding("length", "fail", f"the tokenizer itself stops at {n_read:,} tokens", cure)
    if own < min(most, UNLIMITED):
        cure = f"set model_max_length to {most} in tokenizer_config.json; other tools cut there"
        return Finding("length", "warn", f"{figure}; the tokenizer says {own:,}", cure)
    return Finding("length", "pass", figure)


def _ids(case: Case, *, bos: bool | None = None) -> list[list[int]]:
    return encode_conversations(
        sample_conversations()[:1],
        case.tokenizer,
        bos=_wants_bos(case) if bos is None else bos,
        template=case.template,
        system_prompt=case.model.system_prompt if case.model else True,
    )


def _wants_bos(case: Case) -> bool:
    if case.spec.bos is not None:
        return case.spec.bos
    return expects_bos(case.tokenizer, template=case.template)


def _rendered(case: Case) -> Any:
    return case.tokenizer.apply_chat_template(
        sample_conversations()[0], chat_template=case.template, tokenize=False
    )


def _leading(ids: Sequence[int], token: int) -> int:
    """How many of these the ids begin with."""
    return next((at for at, own in enumerate(ids) if own != token), len(ids))


INPUT_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "table": _check_row,
        "tokenizer": _check_tokenizer,
        "vocabulary": _check_vocabulary,
        "template": _check_template,
        "BOS": _check_bos,
        "padding": _check_padding,
        "padding side": _check_side,
        "pooling": _check_pooling,
        "length": _check_length,
    }
)
