"""An OpenAI-compatible endpoint, asked with patience: paced, retried as it wishes, every fault a type of its own."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from internvl_trainer.curation.filter.errors import (
    EndpointDeniedError,
    EndpointError,
    EndpointUnavailableError,
    ModelNotFoundError,
)
from internvl_trainer.curation.filter.judge.outcomes import SHOWN, Outcome, Rejected, Score, Unreadable, read_answer
from internvl_trainer.curation.filter.judge.pace import Pace
from internvl_trainer.curation.filter.judge.questions import Question
from internvl_trainer.curation.filter.policy import JudgeSettings

LONGEST_WAIT = 300.0
"""Seconds. An endpoint that wants a longer pause is unavailable."""

SECOND_TEMPERATURE = 0.5
"""Of a question that is put again: at temperature 0 the same answer would come."""

_PASSING = frozenset({408, 409, 425, 429})
_backoff = wait_random_exponential(multiplier=0.5, max=30)


class Answered(NamedTuple):
    """What came of a question, and what it took."""

    outcome: Outcome
    requests: int
    prompt_tokens: int
    answer_tokens: int


class Endpoint:
    """One endpoint and one model. Use it within one event loop, and close it.

    The API key comes from the environment variable that the policy names; without one, a placeholder is sent, as
    endpoints of one's own want none.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._key = os.environ.get(settings.api_key_env, "")
        self._pace = Pace(
            requests_per_minute=settings.requests_per_minute, tokens_per_minute=settings.tokens_per_minute
        )
        # Retries are ours, so that each of them is paced.
        self._client = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=0,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()

    async def ask(self, question: Question) -> Answered:
        """Put a question until its answer can be read, at most `answers` times.

        Raises:
            EndpointDeniedError: HTTP 401 or 403.
            ModelNotFoundError: HTTP 404.
            EndpointUnavailableError: no connection, HTTP 5xx or 429, in spite of `attempts` tries.
        """
        requests = prompt_tokens = answer_tokens = 0
        outcome: Outcome = Unreadable("never asked")
        for temperature in [0.0] + [SECOND_TEMPERATURE] * (self._settings.answers - 1):
            requests += 1
            try:
                completion = await self._request(question, temperature)
            except openai.APIStatusError as error:
                outcome = Rejected(f"HTTP {error.status_code}: {self._said(error)}")
                break
            if isinstance(completion, ChatCompletion) and completion.usage is not None:
                prompt_tokens += completion.usage.prompt_tokens
                answer_tokens += completion.usage.completion_tokens
            outcome = _outcome(completion)
            if isinstance(outcome, Score):
                break
        return Answered(outcome, requests, prompt_tokens, answer_tokens)

    async def _request(self, question: Question, temperature: float) -> object:
        """One answered request; what the endpoint answers need not be a completion."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_passing),
            stop=stop_after_attempt(self._settings.attempts),
            wait=self._wait,
            reraise=True,
        )
        try:
            return await retrying(self._request_once, question, temperature)
        except openai.APIStatusError as error:
            raise self._fault(error) from None
        except openai.APIConnectionError as error:
            what = "did not answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
            raise EndpointUnavailableError(
                f"endpoint {self._settings.base_url} {what}, {self._settings.attempts} times; check judge.base_url and "
                "that the server runs, then run the same command again"
            ) from None

    async def _request_once(self, question: Question, temperature: float) -> object:
        settings = self._settings
        await self._pace.take(question.tokens + settings.max_answer_tokens)
        try:
            return await self._client.chat.completions.create(
                model=settings.model,
                messages=[
                    {"role": "system", "content": question.prompt},
                    {"role": "user", "content": question.conversation},
                ],
                temperature=temperature,
                max_tokens=settings.max_answer_tokens,
                extra_body=settings.extra or None,
            )
        except openai.APIResponseValidationError:
            return None
        except ValueError:
            # The body of an answer that says it is JSON, and is not.
            return None

    def _wait(self, state: RetryCallState) -> float:
        """Seconds until the next try, a random time that grows; 0 where the endpoint names a pause for all requests."""
        error = state.outcome.exception() if state.outcome else None
        asked = retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None
        if asked is None:
            return _backoff(state)
        if asked > LONGEST_WAIT:
            raise EndpointUnavailableError(
                f"endpoint {self._settings.base_url} wants no request for {asked:.0f} s, more than {LONGEST_WAIT:.0f}; "
                "run the same command again after that, or lower judge.requests_per_minute"
            )
        self._pace.hold(asked)
        return 0.0

    def _fault(self, error: openai.APIStatusError) -> Exception:
        """What an error of the endpoint means; the error itself where it concerns this request alone."""
        place, status = f"endpoint {self._settings.base_url}", error.status_code
        if status in (401, 403):
            source = f"the API key in {self._settings.api_key_env}" if self._key else "a request without an API key"
            return EndpointDeniedError(
                f"{place} refuses {source} (HTTP {status}); set {self._settings.api_key_env} to a key that may use it"
            )
        if status == 404:
            return ModelNotFoundError(
                f"{place} does not serve {self._settings.model!r} (HTTP 404); correct judge.model, or judge.base_url, "
                "which has to end in the version, such as /v1"
            )
        if status in _PASSING or status >= 500:
            return EndpointUnavailableError(
                f"{place} answers HTTP {status}, {self._settings.attempts} times in a row; run the same command again "
                "when it has recovered, or lower judge.requests_per_minute and judge.concurrency"
            )
        if status in (400, 413, 422):
            return error
        return EndpointError(f"{place} answers HTTP {status}: {self._said(error)}")

    def _said(self, error: openai.APIStatusError) -> str:
        """The endpoint's own words, without the key if they repeat it."""
        body = error.body
        text = str(body.get("message", "")) if isinstance(body, Mapping) else ""
        text = " ".join((text or "no message").split())[: 2 * SHOWN]
        return text.replace(self._key, "***") if self._key else text


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which may also be a date; None if there is none that can be read."""
    given = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(given)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _PASSING or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _outcome(completion: object) -> Outcome:
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        # Not the model's doing, so a later run asks again.
        return Rejected("the endpoint's answer is no chat completion")
    choice = completion.choices[0]
    outcome = read_answer(choice.message.content or "")
    if isinstance(outcome, Unreadable) and choice.finish_reason == "length":
        return Unreadable(f"{outcome.reason}; it was cut at judge.max_answer_tokens")
    return outcome
