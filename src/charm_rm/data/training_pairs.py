"""Preference pairs as a trainer takes them: two conversations each, checked, split by prompt.

Read are the pairs of ``charm pairs`` and TRL's conversational formats: an explicit ``prompt`` with
``chosen`` and ``rejected`` answers, or two whole conversations that differ in the last message.
Pairs that would teach nothing are an error, not dropped: they say that the data are not what they
seem.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.data.prompts import Message, as_messages, prompt_digest
from charm_rm.data.tables import DataError, read_table, require_columns, require_number_columns


@dataclass(frozen=True)
class TrainingPairs:
    """Pairs of conversations, in the order of the file.

    Attributes:
        where: The file, for messages.
        prompts: Digest of each pair's prompt text, by which pairs are held out.
        chosen: Whole conversations that end with the chosen answer.
        rejected: The same prompts with the rejected answer.
        margin: Score points by which the chosen answer is ahead, shape (n,); None without them.
        flipped: Whether the raw scores choose the other answer, shape (n,); None if not known.
    """

    where: str
    prompts: list[str]
    chosen: list[list[Message]]
    rejected: list[list[Message]]
    margin: NDArray[np.float64] | None
    flipped: NDArray[np.bool_] | None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.prompts)

    def take(self, rows: Sequence[int]) -> "TrainingPairs":
        """The pairs of some rows, in their order."""
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            chosen=[self.chosen[row] for row in rows],
            rejected=[self.rejected[row] for row in rows],
            margin=None if self.margin is None else self.margin[list(rows)],
            flipped=None if self.flipped is None else self.flipped[list(rows)],
        )


def read_training_pairs(path: str | Path) -> TrainingPairs:
    r"""Preference pairs of a file, every one of them fit to train on.

    Args:
        path: A file that `charm_rm.data.tables.read_table` reads, with the columns ``chosen`` and
            ``rejected`` and perhaps ``prompt``, ``margin`` and ``flipped``; message lists or texts.

    Returns:
        The pairs.

    Raises:
        DataError: If the file can't be read, has no rows or no texts, a message is malformed, the
            two conversations of a pair have different prompts, a chosen answer equals the rejected
            one, or a margin is not finite.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}\n')
        >>> read_training_pairs(path).chosen[0][-1]
        {'role': 'assistant', 'content': 'Hello!'}
        >>> folder.cleanup()
    """
    where = str(path)
    raw = read_table(path)
    if raw.is_empty():
        raise DataError(f"{where}: no pairs; give a file with at least a batch of them")
    if "chosen_policy" in raw.columns and "chosen" not in raw.columns:
        raise DataError(
            f"{where}: pairs without texts; make them again with charm pairs --responses"
        )
    require_columns(raw, ("chosen", "rejected"), where=where)
    require_number_columns(raw, ("margin",), where=where)
    pairs = [_read_pair(row, where=f"{where}: row {n}") for n, row in _rows(raw)]
    _refuse_equal(pairs, where=where)
    return TrainingPairs(
        where=where,
        prompts=[prompt_digest(chosen[:-1]) for chosen, _ in pairs],
        chosen=[chosen for chosen, _ in pairs],
        rejected=[rejected for _, rejected in pairs],
        margin=_read_margin(raw, where=where),
        flipped=_read_flipped(raw, where=where),
    )


def _rows(raw: pl.DataFrame) -> Any:
    columns = [name for name in ("prompt", "chosen", "rejected") if name in raw.columns]
    return enumerate(raw.select(columns).iter_rows(named=True), start=1)


def _read_pair(row: dict[str, Any], *, where: str) -> tuple[list[Message], list[Message]]:
    """Both conversations of a row, the prompt in front of each."""
    try:
        prompt = as_messages(row["prompt"]) if "prompt" in row else []
        chosen, rejected = (
            [*prompt, *_read_answer(row[side], side, has_prompt="prompt" in row)]
            for side in ("chosen", "rejected")
        )
    except DataError as error:
        raise DataError(f"{where}: {error}; mend the row or drop it") from error
    if chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{where}: chosen and rejected answer different prompts; a pair shares its prompt"
        )
    return chosen, rejected


def _read_answer(found: Any, side: str, *, has_prompt: bool) -> list[Message]:
    if isinstance(found, str):
        if not has_prompt:
            raise DataError(f"{side} is a text and there is no prompt column")
        return [{"role": "assistant", "content": found}]
    messages = as_messages(found)
    if not has_prompt and len(messages) < 2:
        raise DataError(f"{side} has one message and there is no prompt column")
    return messages


def _refuse_equal(pairs: list[tuple[list[Message], list[Message]]], *, where: str) -> None:
    equal = [n for n, (chosen, rejected) in enumerate(pairs, start=1) if chosen == rejected]
    if equal:
        raise DataError(
            f"{where}: row {equal[0]}: chosen equals rejected, which teaches nothing "
            f"({len(equal)} of {len(pairs)} pairs); drop such rows"
        )


def _read_margin(raw: pl.DataFrame, *, where: str) -> NDArray[np.float64] | None:
    if "margin" not in raw.columns:
        return None
    margin = raw["margin"].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    bad = np.flatnonzero(~np.isfinite(margin))
    if bad.size:
        raise DataError(
            f"{where}: row {bad[0] + 1}: margin is {raw['margin'][int(bad[0])]!r}; "
            "mend the row or drop it"
        )
    return margin


def _read_flipped(raw: pl.DataFrame, *, where: str) -> NDArray[np.bool_] | None:
    if "flipped" not in raw.columns:
        return None
    if raw.schema["flipped"] != pl.Boolean or raw["flipped"].null_count():
        raise DataError(f"{where}: column 'flipped' holds {raw.schema['flipped']}, not true, false")
    return raw["flipped"].to_numpy()


def undo_calibration(pairs: TrainingPairs) -> TrainingPairs:
    """The same pairs with the choice of the raw scores: the arm that shows what calibration does.

    Flipped pairs are turned round, the others stay, so prompts, texts and order are the same. The
    margins are those of the calibrated scores and are left out.

    Args:
        pairs: Pairs that know which of them the calibration flipped.

    Returns:
        The uncalibrated pairs.

    Raises:
        DataError: If the pairs do not say which are flipped, or none is: both arms are one then.

    Example:
        >>> talk = [[{"role": "assistant", "content": text}] for text in ("long", "right")]
        >>> pairs = TrainingPairs("pairs", ["p"], talk[1:], talk[:1], None, np.array([True]))
        >>> undo_calibration(pairs).chosen[0][0]["content"]
        'long'
    """
    if pairs.flipped is None:
        raise DataError(
            f"{pairs.where}: no column 'flipped', so the uncalibrated choice is not known; "
            "make the pairs with charm pairs"
        )
    if not pairs.flipped.any():
        raise DataError(
            f"{pairs.where}: the calibration flipped no pair, so the uncalibrated arm would be the "
            "same; leave out --with-uncalibrated-arm"
        )
    sides = [
        (rejected, chosen) if flipped else (chosen, rejected)
        for chosen, rejected, flipped in zip(
            pairs.chosen, pairs.rejected, pairs.flipped, strict=True
        )
    ]
    return replace(
        pairs,
        chosen=[chosen for chosen, _ in sides],
        rejected=[rejected for _, rejected in sides],
        margin=None,
        flipped=None,
    )


def hold_out(prompts: Sequence[str], *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which pairs are kept from training: all pairs of a prompt, or none of them.

    Prompts are drawn by the digest of their text and the seed, whatever the order of the rows.

    Args:
        prompts: Digest of each pair's prompt.
        fraction: Share of the prompts to hold out, rounded to whole prompts, at least one.
        seed: Another seed holds out other prompts.

    Returns:
        True for the pairs that are held out, shape (n,).

    Raises:
        ValueError: If ``fraction`` is not inside [0, 1), or would leave nothing to train on.

    Example:
        >>> hold_out(["a", "b", "a", "c"], fraction=0.4, seed=0).tolist()
        [False, True, False, False]
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"eval fraction is {fraction}; give one from 0 to below 1")
    known = sorted(set(prompts), key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    n_held = max(1, round(fraction * len(known))) if fraction else 0
    if n_held and n_held == len(known):
        raise ValueError(f"{len(known)} prompts are too few to hold out {fraction} of them")
    held = set(known[:n_held])
    return np.array([key in held for key in prompts], dtype=bool)
