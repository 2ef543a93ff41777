"""Responses of a policy to a table of prompts: a long run that resumes.

What the policy has finished is written as a part each second, or when the next is finished; a
killed run loses what was under way and what was finished since the last part. A rerun asks for
what has no response yet, be it new, lost or failed. This module knows a policy as a plain callable,
and no engine; what it leaves on disk is `charm_rm.models.response_folder`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.parts import Parts, Setting, open_parts
from charm_rm.data.reasoning import split_reasoning
from charm_rm.data.tables import DataError
from charm_rm.models.policies import Completion, Failure, Policy, Request, request_seed
from charm_rm.models.response_folder import (
    FAILURES,
    PART_SCHEMA,
    PARTS,
    Key,
    build_table,
    missing_requests,
    prompt_digests,
    read_finished,
    request_key,
    rows_of_table,
    stored_rows,
    write_failures,
)

SECONDS_PER_PART = 1.0
ROWS_PER_PART = 256  # at most, where a policy finishes many in that time


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Requests with an outcome, those of earlier runs included.
        total: Requests wanted.
        n_failed: Requests that failed in this run.
        n_tokens: Tokens written in this run, as far as the policy counts them.
    """

    done: int
    total: int
    n_failed: int
    n_tokens: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Generated:
    """What a folder holds after a run.

    Attributes:
        table: The responses that were wanted and are there; see `generate_responses`.
        failures: What failed in this run, in the order of the requests.
        n_wanted: Requests, those without a response included.
        n_before: Responses that earlier runs had left, in the table or in parts.
        n_in_table: Those in the table.
        n_dropped: Parts of earlier runs that were torn, and whose responses were asked for again.
        n_tokens: Tokens written in this run.
    """

    table: pl.DataFrame
    failures: tuple[Failure, ...]
    n_wanted: int
    n_before: int
    n_in_table: int
    n_dropped: int
    n_tokens: int

    @property
    def complete(self) -> bool:
        """Whether every request has its response."""
        return len(self.table) == self.n_wanted


def make_requests(
    prompts: pl.DataFrame, *, samples: int = 1, seed: int = 0, system: str | None = None
) -> list[Request]:
    """What is wanted of a policy: every sample of every prompt, sample by sample.

    Args:
        prompts: As `charm_rm.data.prompts.read_prompts` returns them.
        samples: Responses to each prompt.
        seed: Seed of the run; each response gets one of its own from it.
        system: System prompt, put before prompts that have no system turn of their own.

    Returns:
        The requests: all prompts' first samples, then their second, and so on.

    Raises:
        ValueError: If ``samples`` is not positive.

    Example:
        >>> from charm_rm.data.prompts import as_messages
        >>> prompts = pl.DataFrame({"prompt_id": ["p"], "prompt": [as_messages("Hi")]})
        >>> [request.sample for request in make_requests(prompts, samples=2, system="Be brief.")]
        [0, 1]
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; give 1 or more")
    before = ({"role": "system", "content": system},) if system else ()
    asked = []
    for prompt_id, prompt in prompts.select("prompt_id", "prompt").iter_rows():
        has_own = any(message["role"] in ("system", "developer") for message in prompt)
        asked.append((prompt_id, (*(() if has_own else before), *prompt)))
    return [
        Request(prompt_id, sample, messages, request_seed(seed, prompt_id, sample))
        for sample in range(samples)
        for prompt_id, messages in asked
    ]


def generate_responses(
    prompts: pl.DataFrame,
    requests: Sequence[Request],
    policy: Policy,
    *,
    name: str,
    folder: str | Path,
    settings: Mapping[str, Setting],
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Generated:
    """Responses to all requests; what earlier runs left in ``folder`` is not asked for again.

    Args:
        prompts: As `charm_rm.data.prompts.read_prompts` returns them.
        requests: What is wanted of them; see `make_requests`.
        policy: A plain callable, requests -> outcomes.
        name: What the policy is called in the table.
        folder: Of the results; made if it is missing. The parts stay in it until
            `charm_rm.models.response_folder.write_responses`.
        settings: What decides the responses (model, temperature, seed, ...). A folder that was
            made with others is refused.
        limit: Most requests to ask for in this run; the others stay missing.
        on_progress: Called at the start and after each outcome.

    Returns:
        The table, with the columns of `charm_rm.data.responses.RESPONSE_COLUMNS`, ``reasoning``
        (None where there is none), ``n_prompt_tokens``, ``n_tokens`` and, where the prompts have
        one, ``category``, in the order of the prompts; and what failed.

    Raises:
        DataError: If the folder was made with other settings or another prompt under the same id,
            another run holds it, or the policy ends the run. What it had finished by then is in
            the parts, what had failed is listed.

    Example:
        >>> import tempfile
        >>> from charm_rm.data.prompts import as_messages
        >>> prompts = pl.DataFrame({"prompt_id": ["p"], "prompt": [as_messages("Hi")]})
        >>> def echo(requests):
        ...     for request in requests:
        ...         yield Completion(request, request.messages[-1]["content"], "stop")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     how = {"name": "echo", "folder": folder, "settings": {"model": "echo"}}
        ...     done = generate_responses(prompts, make_requests(prompts), echo, **how)
        >>> done.table["response"].to_list()
        ['Hi']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    read_finished(folder, settings)  # one of other settings is refused before anything is made
    digests = prompt_digests(prompts)
    with open_parts(folder / PARTS, settings=settings) as parts:
        finished = read_finished(folder, settings)  # another run may have ended just before
        stored = stored_rows(parts, finished)
        missing = missing_requests(stored, requests, digests, folder)
        n_before, asked = len(requests) - len(missing), missing[:limit]
        log = _Log(parts, digests, n_before, n_before + len(asked), on_progress)
        try:
            _run(policy, asked, log)
        finally:
            log.write()
            failures = [one for one in map(request_key, requests) if one in log.failures]
            write_failures([log.failures[one] for one in failures], folder / FAILURES, name=name)
        stored = stored_rows(parts, finished)
    return Generated(
        table=build_table(stored, prompts, name=name),
        failures=tuple(log.failures[one] for one in failures),
        n_wanted=len(requests),
        n_before=n_before,
        n_in_table=0 if finished is None else len(finished),
        n_dropped=parts.n_dropped,
        n_tokens=log.n_tokens,
    )


def find_missing(
    prompts: pl.DataFrame,
    requests: Sequence[Request],
    *,
    folder: str | Path,
    settings: Mapping[str, Setting],
) -> tuple[list[Request], pl.DataFrame]:
    """What a run would ask for, and the responses that are there; nothing is written.

    Args:
        prompts: As for `generate_responses`.
        requests: Likewise.
        folder: Likewise; it may not exist yet.
        settings: Likewise.

    Returns:
        The requests without a response, and the rows of those that have one.

    Raises:
        DataError: If the folder was made with other settings or of other prompts, or another run
            holds it.

    Example:
        >>> find_missing(pl.DataFrame(), [], folder="no-such-folder", settings={})[0]
        []
    """
    folder = Path(folder)
    finished = read_finished(folder, settings)
    stored = rows_of_table(finished)
    if (folder / PARTS).is_dir():
        with open_parts(folder / PARTS, settings=settings) as parts:
            stored = stored_rows(parts, finished)
    digests = prompt_digests(prompts) if requests else {}
    return missing_requests(stored, requests, digests, folder), stored


def _run(policy: Policy, missing: list[Request], log: "_Log") -> None:
    """All outcomes into the log, each checked to be one that is waited for."""
    waiting = {request_key(one): one for one in missing}
    log.report()
    if not missing:
        return
    outcomes = policy(missing)
    try:
        for outcome in outcomes:
            key = request_key(outcome.request)
            if waiting.pop(key, None) is None:
                raise DataError(
                    f"the policy answered prompt {key[0]!r}, sample {key[1]}, which is not asked "
                    "of it or answered already; let it yield one outcome for each request"
                )
            log.add(outcome)
    finally:
        close = getattr(outcomes, "close", None)  # a generator: its requests under way end
        if close is not None:
            close()
    for request in waiting.values():
        log.add(Failure(request, "the policy ended without an answer to it"))


@dataclass
class _Log:
    """What came back and is not yet on disk, and how far the run is."""

    parts: Parts
    digests: Mapping[str, str]
    n_before: int
    total: int
    on_progress: OnProgress | None = None
    failures: dict[Key, Failure] = field(default_factory=dict)
    unwritten: list[tuple[Any, ...]] = field(default_factory=list)
    n_done: int = 0
    n_tokens: int = 0
    written_at: float = field(default_factory=time.monotonic)

    def add(self, outcome: Completion | Failure) -> None:
        if isinstance(outcome, Failure):
            self.failures[request_key(outcome.request)] = outcome
        else:
            self.unwritten.append(_row(outcome, self.digests))
            self.n_tokens += outcome.n_tokens or 0
        self.n_done += 1
        late = time.monotonic() - self.written_at >= SECONDS_PER_PART
        if late or len(self.unwritten) >= ROWS_PER_PART:
            self.write()
        self.report()

    def write(self) -> None:
        if self.unwritten:
            self.parts.append(pl.DataFrame(self.unwritten, schema=PART_SCHEMA, orient="row"))
            self.unwritten = []
        self.written_at = time.monotonic()

    def report(self) -> None:
        if self.on_progress:
            self.on_progress(
                Progress(
                    done=self.n_before + self.n_done,
                    total=self.total,
                    n_failed=len(self.failures),
                    n_tokens=self.n_tokens,
                )
            )


def _row(completion: Completion, digests: Mapping[str, str]) -> tuple[Any, ...]:
    """A row of a part; reasoning is kept apart, whichever way it came."""
    thought, response = split_reasoning(completion.text)
    thoughts = [one for one in (completion.reasoning, thought) if one]
    return (
        *request_key(completion.request),
        digests[completion.request.prompt_id],
        response,
        completion.finish_reason,
        "\n\n".join(thoughts) or None,
        completion.n_prompt_tokens,
        completion.n_tokens,
        None if completion.first_token is None else json.dumps(dict(completion.first_token)),
    )
