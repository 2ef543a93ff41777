"""The small reward model for real: its backbone from the package, its head from the repository."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from charm_rm.data.responses import conversation, read_responses
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel

REPOSITORY = Path(__file__).parents[2]
HEAD = REPOSITORY / "reward_models" / "smollm2-135m-judge"


@pytest.fixture(scope="module")
def model(base: Path) -> RewardModel:
    return load_reward_model(str(HEAD), base_model=str(base), dtype="float32")


def test_every_digit_is_a_token_of_its_own_after_the_conversion(model: RewardModel) -> None:
    ids = model.tokenizer("2048", add_special_tokens=False)["input_ids"]
    assert [model.tokenizer.decode([token]) for token in ids] == ["2", "0", "4", "8"]


def test_a_conversation_has_one_start_token_a_turn_and_no_system_prompt(
    model: RewardModel,
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = model.tokenizer.decode(model.encode([messages])[0])
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    assert model.warnings == ()


def test_the_bundled_scores_come_from_this_model(model: RewardModel, shared: Path) -> None:
    responses = read_responses([shared / "data/alpaca_eval/outputs.parquet"])
    some = responses.filter(pl.col("response").str.len_chars() < 600)
    some = some.sample(40, seed=0).with_columns(pl.col("sample").cast(pl.Int64))
    bundled = pl.read_parquet(str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet"))
    both = some.join(bundled, on=["prompt_id", "policy", "sample"])
    scores = model([conversation(row) for row in both.iter_rows(named=True)])
    spread = float(bundled["score"].std())  # type: ignore[arg-type]
    # bundled in bfloat16, here float32; the largest difference is one of rounding
    assert np.abs(scores - both["score"].to_numpy()).max() < 0.2 * spread
    assert np.abs(scores - both["score"].to_numpy()).mean() < 0.05 * spread


def test_the_model_orders_good_and_bad_answers_it_never_saw(model: RewardModel) -> None:
    prompt = {"role": "user", "content": "Explain why the sky is blue."}
    good = (
        "The sky looks blue because air scatters short wavelengths of sunlight much more than "
        "long ones (Rayleigh scattering). Blue light reaches your eyes from every direction, while "
        "red light mostly passes straight through. At sunset the path is longer, most blue is "
        "scattered away, and the light that is left looks red."
    )
    bad = "i dont know lol"
    pairs = [[prompt, {"role": "assistant", "content": text}] for text in (good, bad)]
    scores = model(pairs)
    assert scores[0] > scores[1]


def test_the_card_gives_the_figures_of_the_run() -> None:
    figures = json.loads((HEAD / "figures.json").read_text(encoding="utf-8"))
    card = (HEAD / "README.md").read_text(encoding="utf-8")
    unseen = figures["held_out"]["unseen prompts, unseen policies"]
    assert f"| {unseen['accuracy']:.3f} | {unseen['low']:.3f} to {unseen['high']:.3f} |" in card
    assert unseen["low"] > 0.75


def test_the_split_parts_the_805_instructions_without_overlap() -> None:
    split = json.loads((HEAD / "split.json").read_text(encoding="utf-8"))
    assert (len(split["train"]), len(split["audit"])) == (402, 403)
    assert not set(split["train"]) & set(split["audit"])
