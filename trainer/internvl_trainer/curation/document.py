"""The base of what subcommands print as JSON."""

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A result, or part of one: tables and pictures are drawn from it, and its JSON is for programs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
