"""What can keep `internvl data filter` from its work. Messages name the thing, its value, the limit and the remedy."""

import os
from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode

UNAVAILABLE = os.EX_UNAVAILABLE
"""Exit code where the language model's endpoint did not answer: 69, as in sysexits.h. The same command goes on."""


class FilterError(ValueError):
    """Base: another run of the same command fails the same way, unless a subclass says otherwise."""

    exit_code: ClassVar[int] = ExitCode.INVALID_CONFIG


class PolicyError(FilterError):
    """The policy file cannot be read or says what no policy can; with file and line."""


class DecisionError(FilterError):
    """A person's decision that cannot be followed; with file and line."""


class InputChangedError(FilterError):
    """An annotation file changed while it was being filtered."""


class OutputExistsError(FilterError):
    """Something lies where the output should go."""


class JournalError(FilterError):
    """The journal of scores is no journal, or another run uses it."""


class EndpointError(FilterError):
    """The language model's endpoint cannot be used as the policy says. Never quotes a credential."""


class EndpointDeniedError(EndpointError):
    """The endpoint refused the API key, or wants one."""


class ModelNotFoundError(EndpointError):
    """The endpoint does not serve the model."""


class EndpointRejectsError(EndpointError):
    """The endpoint rejects every request as malformed."""


class EndpointUnavailableError(EndpointError):
    """The endpoint could not be reached or kept failing, in spite of retries. A later run goes on where this ended."""

    exit_code = UNAVAILABLE


class WorkerLostError(FilterError):
    """A worker process died, most likely for want of memory."""
