"""What a table of prompts holds: turns, system prompts, lengths, sources."""

from dataclasses import dataclass

import polars as pl

from charm_rm.data.lengths import length_percentiles


@dataclass(frozen=True)
class PromptReport:
    """Counts over a table of prompts.

    Attributes:
        n_prompts: Rows.
        n_multi_turn: Prompts with more than one user turn.
        n_with_system: Prompts with a system (or developer) turn.
        n_not_alternating: Prompts whose turns, system turns apart, are not user, assistant, user,
            ...; many chat templates refuse those.
        user_turns: Number of prompts by how many user turns they have.
        chars: Percentiles of the length of all turns together, in characters.
        sources: Number of prompts by source.
        categories: Number of prompts by category; those without one are left out.
    """

    n_prompts: int
    n_multi_turn: int
    n_with_system: int
    n_not_alternating: int
    user_turns: dict[int, int]
    chars: dict[str, int]
    sources: dict[str, int]
    categories: dict[str, int]


def report_prompts(frame: pl.DataFrame) -> PromptReport:
    """Counts over prompts.

    Args:
        frame: As `charm_rm.data.prompts.read_prompts` gives it.

    Returns:
        The counts; names are in falling order of their number.

    Example:
        >>> turns = [[{"role": "user", "content": "Hi"}]]
        >>> rows = {"prompt_id": ["p"], "prompt": turns, "category": [None], "source": ["s"]}
        >>> report_prompts(pl.DataFrame(rows, schema_overrides={"category": pl.String})).sources
        {'s': 1}
    """
    roles = frame["prompt"].list.eval(pl.element().struct.field("role"))
    texts = frame["prompt"].list.eval(pl.element().struct.field("content")).list.join("")
    users = roles.list.count_matches("user")
    counts = users.value_counts(name="n").sort(users.name)
    spoken = [
        [role for role in row if role not in ("system", "developer")] for row in roles.to_list()
    ]
    proper = ["user", "assistant"]
    return PromptReport(
        n_prompts=len(frame),
        n_multi_turn=int((users > 1).sum()),
        n_with_system=sum(
            len(spoken_row) < n for spoken_row, n in zip(spoken, roles.list.len(), strict=True)
        ),
        n_not_alternating=sum(
            any(role != proper[n % 2] for n, role in enumerate(row)) for row in spoken
        ),
        user_turns={int(turns): n for turns, n in counts.iter_rows()},
        chars=length_percentiles(texts),
        sources=_counts(frame["source"]),
        categories=_counts(frame["category"]),
    )


def _counts(names: pl.Series) -> dict[str, int]:
    table = names.drop_nulls().alias("name").value_counts(name="n")
    return dict(table.sort("n", "name", descending=[True, False]).iter_rows())
