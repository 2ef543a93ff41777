"""Preference pairs in the trainer they are made for: TRL's, on a tiny model."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from builders import MINI, SIMPO, make_responses, make_scores
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.preferences import write_preferences
from charm_rm.pairs import build_pairs


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl", "pairs"])
def test_trl_trains_a_reward_model_on_the_pairs_as_they_are_written(
    tmp_path: Path, make: Callable[..., Path], name: str
) -> None:
    scores = make_scores()
    calibration = calibrate_pair(
        scores, read_elo("table7"), over_valued=SIMPO, reference=MINI, n_resamples=10
    )
    pairs = build_pairs(scores, calibration, responses=make_responses(scores))
    write_preferences(pairs.frame.head(8), tmp_path / name)
    folder = make("llama", name="rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    settings = RewardConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    trainer = RewardTrainer(
        model=model,
        args=settings,
        train_dataset=_load(tmp_path / name, cache=str(tmp_path / "cache")),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    result = trainer.train()
    assert result.global_step == 2
    assert 0.0 < result.training_loss < 2.0


def _load(path: Path, *, cache: str) -> datasets.Dataset:
    if path.suffix == ".parquet":
        return datasets.Dataset.from_parquet(str(path), cache_dir=cache)
    if path.suffix == ".jsonl":
        return datasets.Dataset.from_json(str(path), cache_dir=cache)
    return datasets.load_from_disk(str(path))
