"""Style patterns: what each finds, users' tables of them, and hostile texts."""

import re
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.response_check import refusal_pattern
from charm_rm.data.style_patterns import StylePattern, count_patterns, read_patterns
from charm_rm.data.tables import DataError

BUILT_IN = read_patterns()
NAMES = [pattern.name for pattern in BUILT_IN]


def count(text: str, name: str) -> int:
    return int(count_patterns(pl.Series([text]), BUILT_IN)[name][0])


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("plain, 3 * 4 = 12 #1 and 5 stars", 0),
        ("😀😀 a 😀", 3),
        ("👍🏽", 1),  # with a skin tone
        ("👨‍👩‍👧‍👦 and 👩🏽‍🚀", 2),  # joined
        ("❤️‍🔥 🏳️‍🌈 🏴‍☠️ 🤷🏽‍♀️ 👁️‍🗨️", 5),
        ("🇫🇷🇩🇪", 2),  # two flags
        ("🇫🇷🇩", 1),  # and half of one
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", 1),  # a flag by tags
        ("1️⃣2️⃣ #️⃣ *⃣", 4),  # keycaps
        ("1\ufe0f", 0),
        ("© ® ™ ↔ ▪ ✔ ❤ ☀ ★ ✓ ♀", 0),  # shown as text unless asked for otherwise
        ("©️ ®️ ™️ ✔️ ❤️ ☀️", 6),
        ("✅❌⭐⚡", 4),  # shown as emoji by default
        ("🌨 🏗", 2),  # pictographs that lack their selector
        ("→ ∞ ½ 中文 ñ", 0),
    ],
)
def test_an_emoji_is_counted_once_however_long_its_sequence(text: str, n: int) -> None:
    assert count(text, "emoji") == n


def test_every_emoji_of_unicode_is_one_and_nothing_that_is_shown_as_text_is() -> None:
    import emoji

    kinds: dict[int, list[str]] = {}
    for text, data in emoji.EMOJI_DATA.items():
        kinds.setdefault(int(data["status"]), []).append(text)
    full = kinds[emoji.STATUS["fully_qualified"]] + kinds[emoji.STATUS["minimally_qualified"]]
    assert len(full) > 4000
    assert set(count_patterns(pl.Series(full), BUILT_IN)["emoji"]) == {1}
    in_a_row = pl.Series(["".join(f"{one} " for one in full)])
    assert count_patterns(in_a_row, BUILT_IN)["emoji"][0] == len(full)
    bare = [one for one in kinds[emoji.STATUS["unqualified"]] if max(one) < "\U0001f000"]
    plain = [one for one in bare if "\u20e3" not in one and "\u200d" not in one]
    assert len(plain) > 90
    assert set(count_patterns(pl.Series(plain), BUILT_IN)["emoji"]) == {0}


@pytest.mark.parametrize(
    ("text", "name", "n"),
    [
        ("**a** __b__ ** c ** *d*", "bold", 3),
        ("**a\nb**", "bold", 0),
        ("So! Really\uff01 no", "exclamation", 2),
        ("```c\nif (a != b)\n```\ndone", "exclamation", 0),
        ("Who? 誰\uff1f", "question", 2),
        ("- a\n  * b\n+ c\n1. d\n2) e\n-f", "list", 4),
        ("# One\n###### Six\n####### seven\n#eight", "header", 2),
        ("a\n```py\nx\n```\nb ```y``` c", "code_block", 2),
        ("```\ncut off", "code_block", 1),
        ("`inline`", "code_block", 0),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "table", 1),
        ("a | b\n-|-\n1 | 2\n\n|x|\n|-|\n", "table", 2),
        ("---\n\n- a | -\n| a | b |", "table", 0),
        ("|a|b|\r\n|-|-|\r\n|1|2|", "table", 1),
        ("[a](http://b.c) http://d.e/f) <https://g.h>", "link", 3),
        ("[a] (b) [c]() www", "link", 0),
        ("Well, yes", "hedge_opener", 1),
        ("**I\u2019m not sure**, but", "hedge_opener", 1),
        ("It depends on you. I think so.", "hedge_opener", 1),
        ("Wellness is good. I think so.", "hedge_opener", 0),
        ("I'm sorry, but I can't help with that.", "refusal_opener", 1),
        ("I'm sorry to hear that.", "refusal_opener", 0),
        ("I cannot help with that. However, here is a list", "refusal_opener", 0),
    ],
)
def test_each_pattern_finds_what_it_is_named_after(text: str, name: str, n: int) -> None:
    assert count(text, name) == n


CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
TWINS = {  # Chatbot Arena's expressions, in the engine of its own script
    "header": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "list": re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}


@given(st.text(st.sampled_from("# -*+1.`_a\n\r\té"), max_size=60))
def test_markdown_is_counted_as_the_arena_counts_it(text: str) -> None:
    prose = CODE.sub("", text)
    for name, pattern in TWINS.items():
        assert count(text, name) == len(pattern.findall(prose)), name
    assert count(text, "length") == len(text)


def test_counts_of_real_outputs_equal_those_published_where_the_conventions_agree(
    shared: Path,
) -> None:
    folder = shared / "data" / "alpaca_eval"
    key = ["model", "instruction_id"]
    outputs = pl.read_parquet(folder / "outputs.parquet")
    theirs = outputs.join(
        pl.read_parquet(folder / "output_style.parquet"), on=key, maintain_order="left"
    )
    assert len(theirs) == 16_100
    whole = [
        StylePattern(one.name, one.regex, in_code=True)
        for one in BUILT_IN
        if one.name in ("header", "exclamation")
    ]
    ours = count_patterns(outputs["output"], whole)
    for name, column in (("length", "n_chars"), ("header", "n_headers")):
        assert (ours[name] == theirs[column]).all(), name
    wide = (ours["exclamation"] != theirs["n_exclaim"]).arg_true()
    assert all("\uff01" in outputs["output"][row] for row in wide)
    emoji = count_patterns(outputs["output"], BUILT_IN)["emoji"]
    assert ((emoji > 0) != (theirs["n_emoji"] > 0)).sum() < 20
    refused = [refusal_pattern(text) is not None for text in outputs["output"]]
    assert count_patterns(outputs["output"], BUILT_IN)["refusal_opener"].sum() == sum(refused)


HOSTILE = [
    *("[", "](", "[a](https://b", "[https://a ", "https://a [", "**", "**a", "__", "__a ", "```"),
    *("```a", "#", "# ", "\n", " ", "\n ", "1", "1.", "- ", "|", "|-", "-|", ":-", "|-|\n", "\t|"),
    *(
        "😀",
        "\u200d",
        "😀\u200d",
        "🇫",
        "🏴\U000e0067",
        "\ufe0f",
        "👍🏽",
        "i ",
        "I think ",
        "sorry, ",
    ),
    *("I'm sorry, but ", "as an ai ", "\\", "\0", "!", "é"),
]


@pytest.mark.parametrize("start", ["", "🏴", "["])
def test_a_megabyte_of_hostile_text_takes_no_time(start: str) -> None:
    texts = [start + piece * ((1 << 20) // len(piece.encode())) for piece in HOSTILE]
    began = time.perf_counter()
    count_patterns(pl.Series(texts), BUILT_IN)
    # 40 megabytes take about a second; one quadratic expression on one of them takes minutes.
    assert time.perf_counter() - began < 20.0


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text("name,pattern,code_blocks\n" + text, encoding="utf-8")
    return path


def test_a_table_of_ones_own_adds_replaces_and_leaves_out(tmp_path: Path) -> None:
    mine = write(tmp_path, "dash,—,count\nlist,(?m)^•,\nemoji,,\nrefusal_opener,^No,skip\n001,1,\n")
    found = {pattern.name: pattern for pattern in read_patterns(mine)}
    assert "emoji" not in found
    assert [*found] == [*NAMES[1:], "dash", "001"]
    assert found["dash"] == StylePattern("dash", "—", in_code=True)
    assert found["list"] == StylePattern("list", "(?m)^•", in_code=False)
    counts = count_patterns(pl.Series(["No • — ```—```", "• 1"]), tuple(found.values()))
    chosen = counts.select("dash", "list", "refusal_opener", "001")
    assert chosen.rows() == [(2, 0, 1, 0), (0, 1, 0, 1)]


def test_a_table_may_be_of_any_kind_and_without_code_blocks(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"name": "dash", "pattern": "—"}\n', encoding="utf-8")
    assert read_patterns(path)[-1] == StylePattern("dash", "—", in_code=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dash,—,\n,x,\n", r"mine\.csv:3: name is None; every pattern needs a name"),
        ("dash,—,\ndash,-,\n", r"mine\.csv:3: name is 'dash'"),
        ("length,x,\n", "other than 'length'"),
        ("dash,(,\n", r"mine\.csv:2: '\(' is no expression of Rust's regex \(.*unclosed group"),
        ("dash,a(?=b),\n", "no expression of Rust's regex.*look-around"),
        ("dash,—*,\n", "'—\\*' matches the empty text, so every response; narrow it"),
        ("dash,—,yes\n", r"code_blocks is 'yes'; it must be skip or count"),
        ("emojis,,\n", r"mine\.csv:2: no pattern 'emojis'; nearest: emoji"),
        ("".join(f"{name},,\n" for name in NAMES), "leaves out every pattern"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_patterns(write(tmp_path, text))


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,regex\na,b\n")
    with pytest.raises(DataError, match=r"no column 'pattern'; it has name, regex"):
        read_patterns(path)


def test_a_missing_text_has_no_counts_and_an_empty_one_has_zeros() -> None:
    counts = count_patterns(pl.Series([None, ""], dtype=pl.String), BUILT_IN)
    assert set(counts.row(0)) == {None}
    assert set(counts.row(1)) == {0}
    assert counts.columns == ["length", *NAMES]
