"""``charm pairs``: calibrated preference data, ready for TRL."""

from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import print_json, say
from charm_rm.cli.options import Force, Json, Scores

if TYPE_CHECKING:
    from charm_rm.pairs import PreferencePairs


def pairs(
    scores: Scores,
    offsets: Annotated[
        str, typer.Option(metavar="OFFSETS", help="Offsets file of charm calibrate.")
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="PAIRS", help="Output: .parquet, .jsonl, or a Hugging Face data set directory."
        ),
    ],
    responses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Responses that were scored; repeat for more files. Without them the pairs have "
            "ids and policies, no texts.",
            show_default=False,
        ),
    ] = None,
    uncalibrated: Annotated[
        bool,
        typer.Option("--uncalibrated", help="Leave the offset out: the twin to compare with."),
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build preference pairs from scores and offsets.

    Example: charm pairs scores.parquet --offsets offsets.json --responses responses.parquet
    --out pairs.parquet
    """
    from charm_rm.data.offsets import read_offsets
    from charm_rm.data.preferences import write_preferences
    from charm_rm.data.responses import read_responses
    from charm_rm.data.scores import read_scores
    from charm_rm.data.tables import refuse_existing
    from charm_rm.pairs import build_pairs

    refuse_existing(out, force=force)
    result = build_pairs(
        read_scores(scores),
        read_offsets(offsets),
        responses=read_responses(responses) if responses else None,
        uncalibrated=uncalibrated,
    )
    write_preferences(result.frame, out, force=force)
    if json:
        print_json(pairs_summary(result))
    else:
        say_pairs(result)
        say(f"wrote {out}" + ("" if responses else " (ids and policies; --responses adds texts)"))


def pairs_summary(result: "PreferencePairs") -> dict[str, object]:
    """Counts of the pairs, for ``--json``."""
    return {
        "n_pairs": len(result.frame),
        "n_shared": result.n_shared,
        "n_ties": result.n_ties,
        "n_equal_texts": result.n_equal_texts,
        "n_flipped": result.n_flipped,
        "chosen_share": result.chosen_share,
    }


def say_pairs(result: "PreferencePairs") -> None:
    """Counts of the pairs, for people."""
    shares = ", ".join(f"{policy} {share:.3f}" for policy, share in result.chosen_share.items())
    dropped = f"{result.n_ties} exact ties and {result.n_equal_texts} equal texts dropped"
    say(
        f"{len(result.frame)} pairs from {result.n_shared} shared prompts ({dropped}), "
        f"{result.n_flipped} flipped by the offset; chosen: {shares}"
    )
