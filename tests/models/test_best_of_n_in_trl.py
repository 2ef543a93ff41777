"""The best of n responses in TRL's own trainer: fine-tuning on what the reward model picked."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from charm_rm.best_of_n import choose_best_of_n
from charm_rm.data.prompts import as_messages
from charm_rm.data.tables import write_table
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import score_responses


@pytest.mark.filterwarnings(  # TRL's own
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
def test_trl_trains_on_the_responses_that_a_reward_model_picked(
    make: Callable[..., Path],
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt_id": f"p{prompt}",
            "prompt": as_messages(f"hello w{prompt}"),
            "policy": "a",
            "sample": sample,
            "response": " ".join(f"w{word}" for word in rng.integers(40, size=4)),
        }
        for prompt in range(8)
        for sample in range(4)
    ]
    responses = pl.DataFrame(rows)
    scores = score_responses(
        responses, load_reward_model(str(make("llama", name="rm"))), parts=tmp_path / "parts"
    )
    best = choose_best_of_n(scores, responses=responses)
    assert [point.n for point in best.curve] == [1, 2, 4]
    write_table(best.frame, tmp_path / "best.parquet")

    picked = datasets.Dataset.from_parquet(
        str(tmp_path / "best.parquet"), cache_dir=str(tmp_path / "cache")
    )
    said = picked.map(
        lambda row: {"completion": [{"role": "assistant", "content": row["response"]}]}
    )
    tokenizer = tokenizer_of("mistral")
    model = AutoModelForCausalLM.from_pretrained(
        make("mistral", name="policy", causal=True, vocabulary=len(tokenizer)),
        dtype=torch.float32,
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
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
        ),
        train_dataset=said.select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
    )
    result = trainer.train()
    assert result.global_step == 2
    assert 0.0 < result.training_loss < 10.0
