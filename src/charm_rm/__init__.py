"""Find the policy models that a reward model over-values, and calibrate it with Elo ratings.

The public names, nothing else. Each is imported from its module on first use, so that `import
charm_rm` costs nothing and works where only numpy and scipy are installed.

Example:
    >>> import charm_rm
    >>> round(float(charm_rm.expected_win_rate(1216, 1273)), 4)  # gemma-2-9b-it-SimPO, GPT-4o-mini
    0.4187
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charm_rm.audit import audit_scores
    from charm_rm.best_of_n import choose_best_of_n
    from charm_rm.calibrate import calibrate_pair
    from charm_rm.core.elo import expected_win_rate
    from charm_rm.core.mismatch import mismatch_degree, signed_mismatch
    from charm_rm.core.offsets import solve_hard_offset, solve_offset
    from charm_rm.core.win_rates import hard_win_rate, sigmoid_win_rate
    from charm_rm.data.arena import read_elo
    from charm_rm.data.offsets import apply_offsets
    from charm_rm.data.responses import read_responses
    from charm_rm.data.scores import read_scores
    from charm_rm.models.reward_function import reward_function
    from charm_rm.pairs import build_pairs

__version__ = "0.1.0"

__all__ = [
    "apply_offsets",
    "audit_scores",
    "build_pairs",
    "calibrate_pair",
    "choose_best_of_n",
    "expected_win_rate",
    "hard_win_rate",
    "mismatch_degree",
    "read_elo",
    "read_responses",
    "read_scores",
    "reward_function",
    "sigmoid_win_rate",
    "signed_mismatch",
    "solve_hard_offset",
    "solve_offset",
]

_HOMES = {
    "apply_offsets": "charm_rm.data.offsets",
    "audit_scores": "charm_rm.audit",
    "build_pairs": "charm_rm.pairs",
    "calibrate_pair": "charm_rm.calibrate",
    "choose_best_of_n": "charm_rm.best_of_n",
    "expected_win_rate": "charm_rm.core.elo",
    "hard_win_rate": "charm_rm.core.win_rates",
    "mismatch_degree": "charm_rm.core.mismatch",
    "read_elo": "charm_rm.data.arena",
    "read_responses": "charm_rm.data.responses",
    "read_scores": "charm_rm.data.scores",
    "reward_function": "charm_rm.models.reward_function",
    "sigmoid_win_rate": "charm_rm.core.win_rates",
    "signed_mismatch": "charm_rm.core.mismatch",
    "solve_hard_offset": "charm_rm.core.offsets",
    "solve_offset": "charm_rm.core.offsets",
}

if not TYPE_CHECKING:  # a type checker would take every misspelt name for a public one

    def __getattr__(name: str) -> object:
        """Public name, imported from its module the first time it is asked for (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
