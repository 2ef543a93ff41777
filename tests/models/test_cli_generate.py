"""``charm generate`` as a user meets it: responses, a summary, and one line per mistake."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from policy_server import PolicyServer, true_answer
from reward_server import serve

from charm_rm.cli import progress
from charm_rm.cli.progress import Meter
from charm_rm.data.provenance import read_provenance
from charm_rm.data.responses import read_responses
from charm_rm.models import endpoints
from charm_rm.models.generating import Progress

Charm = Callable[..., tuple[int, str, str]]
MakeModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(6)))
    return path


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    with serve(PolicyServer()) as running:
        yield running


@pytest.fixture
def ask(charm: Charm, server: PolicyServer, prompts: Path, tmp_path: Path) -> Charm:
    """The command with a server, prompts and a directory."""

    def run(*arguments: object) -> tuple[int, str, str]:
        common = ("--prompts", prompts, "--endpoint", server.url, "--out", tmp_path / "out")
        return charm("generate", *common, *arguments)

    return run


# What comes out


def test_a_run_ends_in_a_table_and_a_summary(
    ask: Charm, server: PolicyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter, "speed", "9,876 tokens/s, 0 failed")
    server.finish = {"question 1": "length", "question 2": "content_filter", "question 3": None}
    server.messages = {
        "question 2": {"content": None},
        "question 4": {"reasoning_content": "hm"},
        "question 5": {"content": "<think>so</think>yes"},
    }
    prices = ("--price-in", 1000, "--price-out", 2000)
    status, printed, words = ask("--policy", "mine", "--samples", 2, *prices)
    out = tmp_path / "out"
    assert (status, printed) == (0, "")
    assert words.splitlines() == [
        f"12 responses wanted; m on {server.url}",
        "0 of 12 responses",
        f"{out}/responses.parquet: 12 of 12 responses, 12 of them from this run; 0 failed",
        "finish reasons: stop 6, content_filter 2, length 2, none 2; 2 cut at the limit, 2 empty, "
        "4 with reasoning",
        "tokens: 24 read, 60 written, cost 0.144; 9,876 tokens/s in this run",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["responses.parquet"]
    table = read_responses([out / "responses.parquet"])
    assert table.select("policy", "sample").rows() == [("mine", n % 2) for n in range(12)]
    assert table["response"].to_list()[-2:] == ["yes", "yes"]


def test_what_made_the_table_stands_in_it(
    ask: Charm, server: PolicyServer, prompts: Path, tmp_path: Path
) -> None:
    status, printed, _ = ask("--json", "--temperature", 0, "--system", "Be brief.", "--seed", 3)
    assert status == 0
    document = json.loads(printed)
    made_by = document["made_by"]
    assert made_by == read_provenance(tmp_path / "out" / "responses.parquet")
    assert made_by["settings"] == {
        "policy": "m",
        "engine": "endpoint",
        "model": "m",
        "temperature": 0.0,
        "top_p": 0.9,
        "max_new_tokens": 2048,
        "alternatives": 0,
        "seed": 3,
        "system": "Be brief.",
    }
    assert made_by["server"] == {
        "endpoint": server.url,
        "owner": "vllm",
        "answered_as": {"m-2026": 6},
        "left_out": [],
    }
    assert list(made_by["inputs"]) == [str(prompts)]
    counts = {name: document[name] for name in ("n_wanted", "n_responses", "n_this_run", "cost")}
    assert counts == {"n_wanted": 6, "n_responses": 6, "n_this_run": 6, "cost": 0.0}
    assert document["n_prompt_tokens"] == 6 * 4
    assert document["n_tokens"] == document["n_tokens_this_run"] == 30
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 0"}]
    table = pl.read_parquet(tmp_path / "out" / "responses.parquet")
    assert table["response"][0] == true_answer(asked, None)


def test_what_failed_is_listed_and_the_status_says_so_until_a_rerun_has_it(
    ask: Charm, server: PolicyServer, tmp_path: Path
) -> None:
    server.refuses = {"question 2": (400, "This model's maximum context length is 8 tokens.")}
    failures = tmp_path / "out" / "failures.jsonl"
    status, printed, words = ask("--json")
    assert status == 1
    assert json.loads(printed)["n_failed"] == 1
    assert words.splitlines()[-1] == (
        f"error: {failures}: 1 of 6 requests failed, the first with: {server.url}"
        "/v1/chat/completions: status 400 (This model's maximum context length is 8 tokens.); "
        "check the model and the server's options; run again to ask for these alone"
    )
    assert len(read_responses([tmp_path / "out" / "responses.parquet"])) == 5
    assert len(failures.read_text().splitlines()) == 1

    server.refuses = {}
    server.answered.clear()
    status, printed, words = ask()
    assert status == 0
    assert sum(server.answered.values()) == 1
    assert "6 of 6 responses, 1 of them from this run; 0 failed" in words
    assert not failures.exists()
    assert ask()[0] == 0
    assert sum(server.answered.values()) == 1


def test_a_draw_of_the_prompts_is_that_of_charm_prompts(
    ask: Charm, charm: Charm, prompts: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "drawn.parquet"
    assert charm("prompts", prompts, "--sample", 3, "--seed", 5, "--out", drawn)[0] == 0
    assert ask("--sample", 3, "--seed", 5)[0] == 0
    table = pl.read_parquet(tmp_path / "out" / "responses.parquet")
    assert table["prompt_id"].to_list() == pl.read_parquet(drawn)["prompt_id"].to_list()


def test_a_server_that_ignores_the_limit_or_counts_nothing_is_told_of(
    ask: Charm, server: PolicyServer
) -> None:
    _, _, words = ask("--max-new-tokens", 4, "--sample", 3)
    assert "warning: 3 responses are longer than 4 tokens: the server ignores" in words
    server.usage = False
    _, _, words = ask("--max-new-tokens", 4)
    assert "warning: 3 responses came without a count of their tokens" in words


def test_a_server_that_does_not_draw_is_told_of(
    charm: Charm, server: PolicyServer, prompts: Path, tmp_path: Path
) -> None:
    asked = ("generate", "--prompts", prompts, "--endpoint", server.url, "--samples", 2)
    line = "warning: 6 of 6 prompts have the same response in all samples at temperature 0.7"
    assert line not in charm(*asked, "--out", tmp_path / "drawn")[2]
    server.messages = {f"question {n}": {"content": f"answer {n}"} for n in range(6)}
    assert line in charm(*asked, "--out", tmp_path / "same")[2]
    assert (
        "in all samples" not in charm(*asked, "--temperature", 0, "--out", tmp_path / "greedy")[2]
    )


def test_a_model_that_is_loaded_here_writes_the_same_kind_of_table(
    charm: Charm, make: MakeModel, prompts: Path, tmp_path: Path
) -> None:
    model = make("pad_is_eos", causal=True)
    arguments: list[object] = ["--prompts", prompts, "--model", model, "--out", tmp_path / "out"]
    arguments += ["--max-new-tokens", 5, "--device", "cpu", "--dtype", "float32"]
    status, _, words = charm("generate", *arguments, "--concurrency", 2)
    assert status == 0, words
    assert "6 responses wanted; model in float32 on cpu" in words
    table = pl.read_parquet(tmp_path / "out" / "responses.parquet")
    assert table["policy"].unique().to_list() == ["model"]
    assert table["n_tokens"].max() <= 5  # type: ignore[operator]
    made_by = read_provenance(tmp_path / "out" / "responses.parquet") or {}
    assert made_by["settings"]["engine"] == "local"
    assert "torch" in made_by["libraries"]
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    status, _, words = charm("generate", *arguments, "--chat-template", template)
    assert status == 1
    assert "was made with other settings (template" in words


def test_a_served_policy_needs_no_pytorch(
    server: PolicyServer, prompts: Path, tmp_path: Path
) -> None:
    bare = "import sys; sys.modules |= {'torch': None, 'transformers': None}; "
    bare += "from charm_rm.cli.main import main; main()"
    arguments = ["--prompts", prompts, "--endpoint", server.url, "--out", tmp_path / "out"]
    command = [sys.executable, "-c", bare, "generate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read_responses([tmp_path / "out" / "responses.parquet"])) == 6


# Dry runs


def test_a_dry_run_asks_nothing_and_needs_no_server(
    charm: Charm, prompts: Path, tmp_path: Path
) -> None:
    arguments: list[object] = ["--prompts", prompts, "--out", tmp_path / "out", "--dry-run"]
    arguments += ["--endpoint", "http://127.0.0.1:1", "--model", "m", "--price-out", 2]
    arguments += ["--samples", 1000]
    status, printed, words = charm("generate", *arguments)
    assert (status, words) == (0, "")
    assert [" ".join(line.split()) for line in printed.splitlines()] == [
        "requests without a response 6,000",
        "tokens to read 15,000 (4.00 characters a token, assumed)",
        "tokens to write at most 12,288,000 (2,048 each)",
        "cost at most 24.58",
        "time at most 3.4 hours if 1,000 tokens are written a second, which is an assumption; "
        "--probe 32 measures",
    ]
    assert not (tmp_path / "out").exists()


def test_a_probe_measures_and_its_responses_are_kept(
    ask: Charm, server: PolicyServer, tmp_path: Path
) -> None:
    status, printed, _ = ask("--dry-run", "--probe", 2, "--price-out", 1, "--json")
    assert status == 0
    document = json.loads(printed)
    assert sum(server.answered.values()) == 2
    assert (document["n_requests"], document["n_measured"], document["n_tokens"]) == (4, 2, 20)
    assert document["n_prompt_tokens"] == 8
    assert document["cost"] == pytest.approx(20e-6)
    assert 0 < document["seconds"] < 60
    assert not (tmp_path / "out" / "responses.parquet").exists()
    assert ask()[0] == 0
    assert sum(server.answered.values()) == 6
    status, printed, _ = ask("--dry-run")
    assert printed.splitlines()[0].split()[-1] == "0"


# Progress


def test_progress_off_a_terminal_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 100.0, 130.0, 161.0, 162.0])
    monkeypatch.setattr("charm_rm.cli.progress.time.monotonic", lambda: next(clock))
    with progress.meter("responses") as meter:
        for done, n_failed in ((10, 0), (20, 1), (40, 2), (41, 2)):
            meter.report_responses(Progress(done, 100, n_failed, n_tokens=100 * (done - 10)))
    assert capsys.readouterr().err.splitlines() == [
        "10 of 100 responses",
        "40 of 100 responses, 49 tokens/s, 2 failed, about 2 minutes left",
    ]


# Mistakes: one line, status 1, nothing written


def refused(charm: Charm, tmp_path: Path, *arguments: object) -> str:
    before = sorted(tmp_path.rglob("*"))
    status, printed, words = charm("generate", *arguments, "--out", tmp_path / "out")
    assert (status, printed) == (1, "")
    lines = words.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert sorted(tmp_path.rglob("*")) == before
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--endpoint", "127.0.0.1:1"], "error: '127.0.0.1:1': no http:// or https://"),
        (["--endpoint", "http://127.0.0.1:1"], "error: http://127.0.0.1:1: no connection"),
        (["--endpoint", "http://a", "--device", "cpu"], "error: --device is the server's choice"),
        (["--endpoint", "http://a", "--dtype", "float32"], "error: --dtype is the server's"),
        (["--endpoint", "http://a", "--revision", "r"], "error: --revision is the server's"),
        (["--endpoint", "http://a", "--chat-template", "t"], "error: --chat-template is the"),
        (["--endpoint", "http://a", "--trust-remote-code"], "error: --trust-remote-code is the"),
        (["--endpoint", "http://a", "--probe", "3"], "error: --probe measures for an estimate"),
        (["--model", "m", "--timeout", "9"], "error: --timeout is for a server; give its"),
        (["--model", "./nowhere"], "error: ./nowhere: no such directory, nor a hub id"),
        (["--model", "m", "--sample", "9"], "error: 9 prompts to be drawn of 6 usable ones"),
        (["--model", ".", "--chat-template", "none.jinja"], "error: none.jinja: not a readable"),
    ],
)
def test_options_and_addresses_that_can_not_be_meant_are_refused(
    charm: Charm, prompts: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert refused(charm, tmp_path, "--prompts", prompts, *arguments).startswith(complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give a model, or --endpoint"),
        (["--model", "m", "--top-p", "0"], "0 is not above 0 and up to 1"),
        (["--model", "m", "--samples", "0"], "--samples"),
        (["--model", "m", "--temperature", "-1"], "--temperature"),
    ],
)
def test_usage_errors_have_status_2(
    charm: Charm, prompts: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    out = tmp_path / "out"
    status, _, words = charm("generate", "--prompts", prompts, "--out", out, *arguments)
    assert status == 2
    assert complaint in " ".join(words.replace("│", " ").split())


def test_prompts_of_mixed_form_are_refused_before_anything_is_asked(
    charm: Charm, server: PolicyServer, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text('{"prompt": "Hi"}\n{"instruction": "Hello"}\n')
    line = refused(charm, tmp_path, "--prompts", mixed, "--endpoint", server.url)
    assert line.startswith(f"error: {mixed}: row 2: ")
    assert server.keys == []


def test_a_file_in_place_of_the_directory_is_refused(charm: Charm, prompts: Path) -> None:
    status, _, words = charm("generate", "--prompts", prompts, "--model", "m", "--out", prompts)
    assert (status, words) == (1, f"error: {prompts}: is a file; give a directory\n")


def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    ask: Charm, server: PolicyServer
) -> None:
    status, _, words = ask("--model", "nope")
    assert status == 1
    lines = words.splitlines()
    assert lines[0].startswith(f"warning: {server.url} does not list 'nope' but m; it is asked")
    assert lines[-1].startswith(f"error: {server.url}/v1/chat/completions: status 404 ")
    assert lines[-1].endswith("the server lists no 'nope'; it lists m")


def test_a_wrong_key_is_refused_and_not_shown(
    ask: Charm, server: PolicyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sesame"
    monkeypatch.setenv("CHARM_API_KEY", "hunter2")
    status, _, words = ask()
    assert status == 1
    assert "it does not take the key; set CHARM_API_KEY" in words
    assert "hunter2" not in words


def test_another_run_with_other_settings_is_refused(ask: Charm) -> None:
    assert ask("--temperature", 0)[0] == 0
    status, _, words = ask("--temperature", 1)
    assert status == 1
    assert words.splitlines()[-1].endswith(
        "was made with other settings (temperature 0.0 there, 1.0 now); choose another output, or "
        "delete that one"
    )


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [("httpx2", ["--endpoint", "http://127.0.0.1:1"], "endpoint"), ("torch", [], "models")],
)
def test_the_missing_extra_is_named(
    charm: Charm,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    arguments: list[str],
    extra: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == module else find(name)
    )
    line = refused(charm, tmp_path, "--prompts", prompts, "--model", "m", *arguments)
    assert line.endswith(f" needs {module}: pip install 'charm-rm[{extra}]'")
