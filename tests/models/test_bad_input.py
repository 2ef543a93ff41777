"""Bad input to ``charm score``: one line that says what to do, status 1, nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError
from charm_rm.models.reward_models import load_reward_model

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]
Score = Callable[..., tuple[int, str, str]]


def row(**changes: object) -> dict[str, object]:
    return {"prompt_id": "p1", "prompt": "hello", "policy": "a", "response": "world"} | changes


@pytest.fixture
def score(charm: Charm, make: MakeModel, tmp_path: Path) -> Score:
    """Scores rows, or the bytes of a file, with the layout "sound" into ``scores.parquet``."""
    model = make("sound", name="rm")

    def run(
        content: bytes | list[dict[str, Any]], *arguments: object, name: str = "r.jsonl"
    ) -> Any:
        lines = (
            content
            if isinstance(content, bytes)
            else b"\n".join(json.dumps(one).encode() for one in content)
        )
        (tmp_path / name).write_bytes(lines)
        out = tmp_path / "scores.parquet"
        return charm(
            *("score", tmp_path / name, "--reward-model", model, "--out", out),
            *("--device", "cpu", "--dtype", "float32", *arguments),
        )

    return run


def the_error(run: tuple[int, str, str], tmp_path: Path) -> str:
    status, printed, words = run
    lines = [line for line in words.splitlines() if line.startswith("error: ")]
    assert (status, printed, len(lines)) == (1, "", 1)
    assert words.splitlines()[-1] == lines[0]
    assert not list(tmp_path.glob("scores.parquet*"))
    return lines[0]


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (" ", r"prompt 'p1', policy 'a': message 0 (user) is empty; give its text"),
        ([{"role": "human", "content": "hi"}], "message 0 has role 'human'; use system, user or"),
        (
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
            "the prompt ends with 'assistant', and a response follows; take the old response out",
        ),
        ([], "row 1: prompt is []; give a string or a list of messages"),
        ([{"role": "user", "content": None}], "'role' and 'content' must be texts"),
    ],
)
def test_a_prompt_that_is_no_conversation_is_refused_by_name(
    score: Score, tmp_path: Path, prompt: object, complaint: str
) -> None:
    assert complaint in the_error(score([row(prompt=prompt)]), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.json", b'[{"instruction": "hi \xff", "output": "x", "generator": "a"}]'),
        ("r.jsonl", b'{"prompt": "hi \xff", "response": "x", "policy": "a"}\n'),
        ("r.csv", b"prompt,response,policy\nhi \xff,x,a\n"),
    ],
)
def test_a_file_that_is_no_utf8_is_refused(
    score: Score, tmp_path: Path, name: str, content: bytes
) -> None:
    line = the_error(score(content, name=name), tmp_path)
    assert f"{name}: not a readable table" in line
    assert line.endswith("; check the file")


def test_half_a_character_is_refused_before_the_tokenizer_sees_it(make: MakeModel) -> None:
    model = load_reward_model(str(make("sound")), device="cpu")
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "\ud800"}]
    with pytest.raises(DataError, match=r"message 1 \(assistant\) holds half a character"):
        model([messages])


def test_an_empty_response_is_scored_and_counted(score: Score, tmp_path: Path) -> None:
    status, _, words = score([row(response=""), row(policy="b")])
    assert status == 0
    assert words.splitlines()[-1].endswith("1 empty")
    assert len(read_scores([tmp_path / "scores.parquet"])) == 2


def test_a_response_of_200000_tokens_is_cut_marked_and_counted(
    score: Score, tmp_path: Path
) -> None:
    status, _, words = score([row(response="w1 " * 200_000), row(policy="b")])
    assert status == 0
    assert "1 truncated" in words.splitlines()[-1]
    scores = read_scores([tmp_path / "scores.parquet"])
    assert scores["n_tokens"].to_list() == [200_008, 9]
    assert scores["truncated"].to_list() == [True, False]


def test_a_device_that_holds_no_numbers_is_refused(score: Score, tmp_path: Path) -> None:
    line = the_error(score([row()], "--device", "meta"), tmp_path)
    assert line == "error: device is 'meta', which holds no numbers; give cpu or cuda"


def test_a_length_that_the_prompts_alone_fill_is_refused(score: Score, tmp_path: Path) -> None:
    long_prompt = "hello w1 w2 w3 w4 w5 w6 w7"
    rows = [row(prompt=long_prompt), row(prompt=long_prompt, policy="b", response="w9")]
    line = the_error(score(rows, "--max-length", 6), tmp_path)
    assert "of 2 of 2 responses nothing is read: their prompts alone fill the 6 tokens" in line
    assert line.endswith("give a larger --max-length or another model")


def test_responses_behind_a_long_prompt_are_counted_in_a_warning(
    score: Score, tmp_path: Path
) -> None:
    long_prompt = "hello w1 w2 w3 w4 w5 w6 w7"
    rows = [row(prompt=long_prompt, prompt_id="p2"), row(), row(policy="b", response="w1 " * 9)]
    status, _, words = score(rows, "--max-length", 15)
    assert status == 0
    warnings = [line for line in words.splitlines() if line.startswith("warning: ")]
    assert warnings == []
    (tmp_path / "scores.parquet").unlink()
    status, _, words = score(rows, "--max-length", 8)
    assert status == 0
    warnings = [line for line in words.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: of 1 of 3 responses nothing is read: their prompts alone fill the 8 tokens, so "
        "their scores say nothing of them"
    ]


def test_a_model_without_a_tokenizer_is_refused(
    charm: Charm, make: MakeModel, tmp_path: Path
) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(row()))
    folder, out = make("sound", tokenizer=False), tmp_path / "scores.parquet"
    run = charm("score", tmp_path / "r.jsonl", "--reward-model", folder, "--out", out)
    assert the_error(run, tmp_path).endswith("no tokenizer there; save it beside the model")


def test_a_model_of_nan_leaves_nothing_behind_and_the_cure_can_be_tried(
    score: Score, tmp_path: Path
) -> None:
    path = tmp_path / "rm" / "model.safetensors"
    whole = load_file(path)
    sick = {key: value.clone() for key, value in whole.items()}
    sick["score.weight"].fill_(torch.nan)
    save_file(sick, path, metadata={"format": "pt"})
    line = the_error(score([row()]), tmp_path)
    assert "is nan in float32; try --dtype float32, or check the model" in line
    save_file(whole, path, metadata={"format": "pt"})
    assert score([row()], "--dtype", "bfloat16")[0] == 0
