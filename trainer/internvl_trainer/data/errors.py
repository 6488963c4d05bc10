"""What can be wrong with data, as types. A message names the thing, its value, the limit and the remedy."""

from typing import Any, ClassVar

from internvl_trainer.contract.exit_codes import ExitCode


class DataError(ValueError):
    """The data, its description or the tokenizer is wrong: another attempt would fail the same way."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes without the constructor, which takes other arguments than the message that it makes.
        return _again, (type(self), self.args, self.__dict__)


class MetaError(DataError):
    """The meta JSON is malformed or describes a data set that cannot be read."""


class TokenizerError(DataError):
    """The tokenizer folder is unusable for the model."""


class MissingSpecialTokensError(TokenizerError):
    """The tokenizer lacks tokens that InternVL's conversations are made of."""

    def __init__(self, source: str, missing: list[str]) -> None:
        super().__init__(
            f"tokenizer {source} has no token {', '.join(missing)}; add them as special tokens "
            "(InternVL adds <img> </img> <IMG_CONTEXT> and the grounding tags to the language model's own)"
        )
        self.missing = missing


class TooManyBadSamplesError(DataError):
    """More samples are unusable than a stage may skip; the first few reasons are in the message."""


class BadSampleError(DataError):
    """One sample cannot be trained on. It is skipped when the index is built, and counted; never replaced.

    Attributes:
        sample: data set and id of the sample, as in `emoji:smile-3`.
        reason: a short name of the kind of fault, stable enough to count by.
    """

    reason: ClassVar[str] = "bad sample"

    def __init__(self, sample: str, detail: str) -> None:
        super().__init__(f"sample {sample}: {detail}")
        self.sample = sample


class MalformedRecordError(BadSampleError):
    """The JSONL line is no JSON object, or a field has the wrong type."""

    reason = "malformed record"


class VideoNotSupportedError(BadSampleError):
    """The sample holds several videos, or a video among images: InternVL's format has no text for either."""

    reason = "video not supported"


class VideoUnreadableError(BadSampleError):
    """The video is missing, empty, without pictures, damaged or too large."""

    reason = "video unreadable"


class ClipOutsideVideoError(BadSampleError):
    """The record's clip begins after its video has ended."""

    reason = "clip outside video"


class MalformedBoxError(BadSampleError):
    """A grounding box has a coordinate that is no number."""

    reason = "malformed box"


class TurnOrderError(BadSampleError):
    """The conversation has turns that its template has no place for."""

    reason = "turns do not fit the template"


class PlaceholderMismatchError(BadSampleError):
    """The conversation has more or fewer `<image>` placeholders than the record has images."""

    reason = "placeholders do not match images"


class ReservedTokenError(BadSampleError):
    """The text itself contains `<IMG_CONTEXT>`, which would be taken for a visual token."""

    reason = "reserved token in text"


class ImageUnreadableError(BadSampleError):
    """An image is missing, empty or cannot be decoded."""

    reason = "image unreadable"


class ImageTooLargeError(BadSampleError):
    """An image has more pixels than are decoded."""

    reason = "image too large"


class ImageSizeMismatchError(BadSampleError):
    """The record's width and height give another grid of tiles than the image itself."""

    reason = "image size differs from the record"


class SampleChangedError(BadSampleError):
    """An image or video was replaced since the index was built, and has another number of tiles."""

    reason = "changed since it was indexed"


class VisualBlockCutError(BadSampleError):
    """The sample is longer than a pack, and the cut would fall inside or before a visual block."""

    reason = "visual tokens cut off"


class TooManyTilesError(BadSampleError):
    """The sample alone has more tiles than a pack may hold."""

    reason = "too many tiles"


class NothingSupervisedError(BadSampleError):
    """No token of the sample would be learned from: there is no answer, or the cut removed it."""

    reason = "nothing to learn"


def _again(kind: type[DataError], args: tuple[Any, ...], attributes: dict[str, Any]) -> DataError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error
