"""Asks what the journal does not know yet, many questions at a time; whatever ends it, answers so far are kept."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from internvl_trainer.curation.filter.errors import EndpointRejectsError, FilterError
from internvl_trainer.curation.filter.judge.endpoint import Answered, Endpoint
from internvl_trainer.curation.filter.judge.journal import Journal
from internvl_trainer.curation.filter.judge.outcomes import Rejected, Unreadable
from internvl_trainer.curation.filter.judge.questions import Question
from internvl_trainer.curation.filter.policy import JudgeSettings

FIRST_REJECTIONS = 8
"""So many rejections before any other answer mean that the request is wrong, not the samples."""

_POLITE = 64
"""Questions between two turns of the event loop: reading on must not starve requests under way."""


@dataclass
class Usage:
    """What was asked, and what it took, as the endpoint counts."""

    questions: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    unreadable: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Estimate:
    """What is still to ask, before anything is asked. Tokens are estimates, and answers are taken at their limit."""

    questions: int
    prompt_tokens: int
    answer_tokens: int
    minutes: float | None
    cost: float


def estimate(open_questions: Iterable[Question], settings: JudgeSettings) -> Estimate:
    """The work that questions are, with the time that the policy's rates alone make it take."""
    count = prompts = 0
    for question in open_questions:
        count += 1
        prompts += question.tokens
    answers = count * settings.max_answer_tokens
    rates = ((count, settings.requests_per_minute), (prompts + answers, settings.tokens_per_minute))
    minutes = [amount / rate for amount, rate in rates if rate]
    cost = (prompts * settings.price.input + answers * settings.price.output) / 1e6
    return Estimate(count, prompts, answers, max(minutes) if minutes else None, cost)


def still_open(questions: Iterable[Question], journal: Journal) -> Iterator[Question]:
    """Those that the journal has no outcome for, each key once."""
    return (each for each in questions if journal.is_open(each.key) and journal.first_time(each.key))


def ask_all(
    questions: Iterable[Question], journal: Journal, settings: JudgeSettings, told: Callable[[], None]
) -> Usage:
    """Settle every question in the journal.

    Args:
        questions: each key once.
        told: called after every question.

    Raises:
        EndpointError: the endpoint cannot be used; outcomes so far are in the journal.
    """
    return asyncio.run(_ask_all(questions, journal, settings, told))


async def _ask_all(
    questions: Iterable[Question], journal: Journal, settings: JudgeSettings, told: Callable[[], None]
) -> Usage:
    usage, endpoint = Usage(), Endpoint(settings)
    waiting: asyncio.Queue[Question | None] = asyncio.Queue(2 * settings.concurrency)

    async def feed() -> None:
        for number, question in enumerate(questions):
            await waiting.put(question)
            if number % _POLITE == 0:
                await asyncio.sleep(0)
        for _ in range(settings.concurrency):
            await waiting.put(None)

    async def work() -> None:
        while (question := await waiting.get()) is not None:
            answered = await endpoint.ask(question)
            journal.settle(question.key, answered.outcome, settings.model)
            _count(usage, answered)
            _check_rejections(usage, answered, settings)
            told()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            for _ in range(settings.concurrency):
                group.create_task(work())
    except BaseExceptionGroup as faults:
        known = faults.subgroup(FilterError)
        if known is None:
            raise
        raise known.exceptions[0] from None
    finally:
        await endpoint.close()
    return usage


def _count(usage: Usage, answered: Answered) -> None:
    usage.questions += 1
    usage.requests += answered.requests
    usage.prompt_tokens += answered.prompt_tokens
    usage.answer_tokens += answered.answer_tokens
    usage.rejected += isinstance(answered.outcome, Rejected)
    usage.unreadable += isinstance(answered.outcome, Unreadable)


def _check_rejections(usage: Usage, answered: Answered, settings: JudgeSettings) -> None:
    if usage.rejected == usage.questions >= FIRST_REJECTIONS and isinstance(answered.outcome, Rejected):
        raise EndpointRejectsError(
            f"endpoint {settings.base_url} rejects every request, {usage.rejected} so far; the last: "
            f"{answered.outcome.reason}; correct judge.base_url, judge.extra, judge.max_answer_tokens or "
            "judge.max_characters"
        )
