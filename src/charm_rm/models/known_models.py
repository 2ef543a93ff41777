"""The table of reward models: what each one expects that its files do not say, or say wrongly.

A row is data. How text becomes token ids (template, BOS rule, system prompt, a token put at the
end), where and how the score is read (`charm_rm.models.heads`), precision and length. A model that
has no row is read by rules derived from its tokenizer and configuration; `charm doctor` says which.
A row may also say that this package does not read a model, and what to do instead.

No row was tried on its real weights here; where each comes from stands in docs/reward-models.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from charm_rm.data.tables import DataError, nearest_names

NO_OPTIONS: Mapping[str, float] = MappingProxyType({})
LLAMA_3_CLS = "<|reserved_special_token_1|>"  # id 128003


@dataclass(frozen=True)
class RewardModelSpec:
    """What a reward model expects; None where it is derived from its files.

    Attributes:
        bos: True for exactly one BOS token, False for none.
        max_length: Longest conversation of its training or its published use, in tokens.
        template: Jinja chat template to use instead of the tokenizer's own.
        system_prompt: False to take off the words that the template adds when a conversation has
            no system prompt; None to leave the template as it is.
        ends_with: Token put after every conversation, at which the score is read.
        head: Kind of its head, a key of `charm_rm.models.heads.HEAD_KINDS`.
        options: Numbers that the head needs where the configuration does not give them.
        pad: Its padding token. Scoring never looks for it; `charm doctor` compares.
        refusal: Why this package does not read the model, and what to do; empty if it does.
    """

    bos: bool | None = None
    max_length: int | None = None
    template: str | None = None
    system_prompt: bool | None = None
    ends_with: str | None = None
    head: str | None = None
    options: Mapping[str, float] = field(default_factory=lambda: NO_OPTIONS)
    pad: str | None = None
    refusal: str = ""


_ONE_BOS = RewardModelSpec(bos=True, head="linear")
_NO_BOS = RewardModelSpec(bos=False, head="linear")
_V2_LLAMA = RewardModelSpec(bos=True, max_length=16_384, head="linear")
_V2_QWEN3 = RewardModelSpec(bos=False, max_length=16_384, head="linear")
_GRM_MLP = RewardModelSpec(bos=True, head="value mlp")
_ATHENE = RewardModelSpec(bos=True, max_length=4096, head="value", ends_with=LLAMA_3_CLS)
_QRM_LLAMA = RewardModelSpec(bos=True, head="gated", options={"gating_temperature": 10.0})
_SERVE = "serve it with vLLM or SGLang and give --endpoint"
_INTERNLM2 = RewardModelSpec(
    refusal="its backbone (InternLM2) and its tokenizer are code that comes with it, which this "
    f"package does not have; {_SERVE}"
)
_NEMOTRON = RewardModelSpec(
    refusal="whether its conversations begin with a BOS token is not known here; compare "
    "charm doctor --like nvidia/Llama-3.3-Nemotron-70B-Reward with its card, then score with that"
)

KNOWN_REWARD_MODELS: Mapping[str, RewardModelSpec] = MappingProxyType(
    {
        # The five of the paper.
        "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": _ONE_BOS,
        "weqweasdas/RM-Mistral-7B": RewardModelSpec(bos=True, head="linear", pad="[PAD]"),
        # Its template writes a BOS and its tokenizer adds another; it was trained with none.
        "sfairXC/FsfairX-LLaMA3-RM-v0.1": _NO_BOS,
        "Ray2333/GRM-llama3-8B-distill": _ONE_BOS,
        "CIR-AMS/BTRM_Qwen2_7b_0613": _NO_BOS,
        "Skywork/Skywork-Reward-V2-Llama-3.1-8B": _V2_LLAMA,
        "Skywork/Skywork-Reward-V2-Llama-3.1-8B-40M": _V2_LLAMA,
        "Skywork/Skywork-Reward-V2-Llama-3.2-1B": _V2_LLAMA,
        "Skywork/Skywork-Reward-V2-Llama-3.2-3B": _V2_LLAMA,
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": _V2_QWEN3,
        "Skywork/Skywork-Reward-V2-Qwen3-1.7B": _V2_QWEN3,
        "Skywork/Skywork-Reward-V2-Qwen3-4B": _V2_QWEN3,
        "Skywork/Skywork-Reward-V2-Qwen3-8B": _V2_QWEN3,
        "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": _ONE_BOS,
        # Other heads.
        "Ray2333/GRM-llama3-8B-sftreg": _GRM_MLP,
        "Ray2333/GRM-llama3.2-3B-sftreg": _GRM_MLP,
        "Ray2333/GRM-Gemma2-2B-sftreg": _GRM_MLP,
        "infly/INF-ORM-Llama3.1-70B": RewardModelSpec(bos=True, head="mlp"),
        "RLHFlow/ArmoRM-Llama3-8B-v0.1": RewardModelSpec(
            bos=True, max_length=4096, head="gated", options={"gating_temperature": 10.0}
        ),
        "nicolinho/QRM-Llama3-8B": _QRM_LLAMA,
        "nicolinho/QRM-Llama3.1-8B": _QRM_LLAMA,
        "nicolinho/QRM-Llama3.1-8B-v2": RewardModelSpec(bos=True, head="gated"),
        "nicolinho/QRM-Gemma-2-27B": RewardModelSpec(
            bos=True, head="gated", options={"gating_temperature": 1.0}
        ),
        "LxzGordon/URM-LLaMa-3.1-8B": RewardModelSpec(bos=True, head="attributes"),
        "LxzGordon/URM-LLaMa-3-8B": RewardModelSpec(
            refusal="it weights its attributes by numbers that are not among its weights; "
            f"take LxzGordon/URM-LLaMa-3.1-8B, or {_SERVE}"
        ),
        "Nexusflow/Athene-RM-8B": _ATHENE,
        "Nexusflow/Athene-RM-70B": _ATHENE,
        # A causal language model whose logit of token 0 is the score.
        "nvidia/Llama-3.3-Nemotron-70B-Reward": RewardModelSpec(
            bos=False, max_length=4096, head="token logit"
        ),
        "nvidia/Llama-3.3-Nemotron-70B-Reward-Multilingual": _NEMOTRON,
        "nvidia/Llama-3.1-Nemotron-70B-Reward-HF": _NEMOTRON,
        "internlm/internlm2-1_8b-reward": _INTERNLM2,
        "internlm/internlm2-7b-reward": _INTERNLM2,
        "internlm/internlm2-20b-reward": _INTERNLM2,
    }
)


def find_row(name: str, *, like: str | None = None) -> tuple[str | None, RewardModelSpec]:
    """The row of a model, also of a local copy that keeps its name.

    Args:
        name: A hub id or a directory.
        like: A hub id of the table whose row is used instead.

    Returns:
        The hub id of the row, or None if there is none; and the row, empty then.

    Raises:
        DataError: If ``like`` is not in the table; the nearest names are listed.

    Example:
        >>> find_row("Skywork/Skywork-Reward-V2-Qwen3-0.6B")[1].max_length
        16384
    """
    if like is not None and like not in KNOWN_REWARD_MODELS:
        near = nearest_names(like, KNOWN_REWARD_MODELS)
        hint = f"nearest: {', '.join(near)}" if near else "docs/reward-models.md lists the table"
        raise DataError(f"--like: no known reward model {like!r}; {hint}")
    known = like or name
    if like is None and Path(name).is_dir():
        copied = Path(name).resolve().name
        known = next((key for key in KNOWN_REWARD_MODELS if key.endswith(f"/{copied}")), name)
    if known not in KNOWN_REWARD_MODELS:
        return None, RewardModelSpec()
    return known, KNOWN_REWARD_MODELS[known]
