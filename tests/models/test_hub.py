"""Real weights from the hub, against published scores: ``pytest -m hub`` (16 GB to fetch).

Deselected by default: it needs a network, and a machine that holds an 8B model.
"""

import json
import os
import subprocess
import sys

import pytest

# The example of the model's card, with the scores that the card gives for its two responses.
PROMPT = (
    "Jane has 12 apples. She gives 4 apples to her friend Mark, then buys 1 more apple, and "
    "finally splits all her apples equally among herself and her 2 siblings. How many apples does "
    "each person get?"
)
BEGINNING = (
    "1. Jane starts with 12 apples and gives 4 to Mark. 12 - 4 = 8. Jane now has 8 apples.\n"
    "2. Jane buys 1 more apple. 8 + 1 = 9. Jane now has 9 apples.\n"
)
RIGHT = (
    "3. Jane splits the 9 apples equally among herself and her 2 siblings (3 people in total). "
    "9 \u00f7 3 = 3 apples each. Each person gets 3 apples."
)
WRONG = (
    "3. Jane splits the 9 apples equally among her 2 siblings (2 people in total). "
    "9 \u00f7 2 = 4.5 apples each. Each person gets 4 apples."
)
PUBLISHED = (23.0, 3.59375)  # bfloat16 logits, on a grid of 0.125 and 0.015625
SCRIPT = """
import json, sys
from charm_rm.models.reward_models import load_reward_model
model = load_reward_model("Skywork/Skywork-Reward-V2-Llama-3.1-8B", dtype="bfloat16", exact=True)
print(json.dumps(model(json.load(sys.stdin)).tolist()))
"""


@pytest.mark.hub
def test_skywork_reward_v2_gives_the_scores_that_its_card_publishes() -> None:
    conversations = [
        [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": BEGINNING + ending},
        ]
        for ending in (RIGHT, WRONG)
    ]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(conversations),
        env=os.environ | {"HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == pytest.approx(PUBLISHED, abs=0.5)
