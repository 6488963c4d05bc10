"""A tokenizer out of any Hugging Face folder that has a tokenizer.json, with InternVL's special tokens by name."""

import hashlib
import json
from typing import Any

import tokenizers

from internvl_trainer.data.errors import MissingSpecialTokensError, TokenizerError
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore

INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""What InternVL adds to a language model's tokenizer, in the order of their ids."""

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

_REQUIRED = (*CHATML_TOKENS, "<img>", "</img>", "<IMG_CONTEXT>")
_CONVERT = "transformers.AutoTokenizer.from_pretrained(OLD, use_fast=True, trust_remote_code=True).save_pretrained(NEW)"
_BOS: dict[str, str | None] = {"internlm2.5": "<s>", "qwen2.5": None}


class Tokenizer:
    """Text to ids and back. Encoding adds nothing of its own; special tokens in the text are recognised.

    Attributes:
        sha256: of its tokenizer.json, 64 hexadecimal digits.

    Raises:
        TokenizerError: tokenizer.json cannot be parsed, or the family is unknown.
        MissingSpecialTokensError: names the tokens it lacks.
    """

    def __init__(self, payload: bytes, *, family: str, source: str = "tokenizer.json") -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(payload)
        # The library raises bare Exception for whatever it cannot parse.
        except Exception as error:
            raise TokenizerError(f"{source} is no tokenizer.json that tokenizers can read: {error}") from error
        if family not in _BOS:
            raise TokenizerError(f"language family {family!r} has no chat template; known: {', '.join(_BOS)}")
        self.sha256 = hashlib.sha256(payload).hexdigest()
        self._bos = _BOS[family]
        required = _REQUIRED if self._bos is None else (*_REQUIRED, self._bos)
        found = {token: self._tokenizer.token_to_id(token) for token in required}
        if missing := [token for token, number in found.items() if number is None]:
            raise MissingSpecialTokensError(source, missing)
        self._ids = {token: number for token, number in found.items() if number is not None}
        # A folder may ask for truncation or padding; both are the packer's business.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, folder: str, store: ObjectStore, *, family: str) -> "Tokenizer":
        """Read `<folder>/tokenizer.json`; `folder` is an s3:// or file:// URI or a path.

        Tokens that it lacks, and that tokenizer_config.json or added_tokens.json beside it lists, are added under the
        ids that they have there, as transformers does.
        """
        folder = folder.rstrip("/")
        uri = f"{folder}/tokenizer.json"
        try:
            payload = store.read(uri)
        except ObjectNotFoundError as error:
            raise TokenizerError(
                f"tokenizer {uri} does not exist. A folder with a slow tokenizer alone (vocab.json or tokenizer.model, "
                f"as InternVL2.5 is released) has to be converted once: {_CONVERT}"
            ) from error
        try:
            return cls(payload, family=family, source=uri)
        except MissingSpecialTokensError:
            listed = _listed_tokens(folder, store)
            if not listed:
                raise
            return cls(_with_tokens(payload, listed, uri), family=family, source=uri)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with no token added in front or behind."""
        # The batch variant is a fifth faster, as it keeps no offsets into the text.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding.ids

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    @property
    def img_context_id(self) -> int:
        """Id of `<IMG_CONTEXT>`, the position of one visual token."""
        return self._ids["<IMG_CONTEXT>"]

    @property
    def im_end_id(self) -> int:
        """Id of `<|im_end|>`, which ends a turn and so a generated answer."""
        return self._ids["<|im_end|>"]

    @property
    def bos_id(self) -> int | None:
        """Id of the token every sample begins with; None for a family without one."""
        return None if self._bos is None else self._ids[self._bos]

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the fewest rows an embedding needs."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _listed_tokens(folder: str, store: ObjectStore) -> dict[int, dict[str, Any]]:
    """Tokens by their ids, in the fields of tokenizer.json, from the files that transformers keeps beside it."""
    names = _read_json(f"{folder}/added_tokens.json", store)
    config = _read_json(f"{folder}/tokenizer_config.json", store).get("added_tokens_decoder", {})
    listed = {int(number): {"content": name} for name, number in names.items()}
    listed |= {int(number): token for number, token in config.items()}
    return {number: _PLAIN | token | {"id": number} for number, token in sorted(listed.items())}


_PLAIN = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _read_json(uri: str, store: ObjectStore) -> dict[str, Any]:
    try:
        fields = json.loads(store.read(uri))
    except ObjectNotFoundError:
        return {}
    except ValueError as error:
        raise TokenizerError(f"{uri} is not valid JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _with_tokens(payload: bytes, listed: dict[int, dict[str, Any]], uri: str) -> bytes:
    """tokenizer.json with the listed tokens that it lacks, if they get the ids that are listed."""
    known = tokenizers.Tokenizer.from_buffer(payload)
    lacking = {number: token for number, token in listed.items() if known.token_to_id(token["content"]) is None}
    fields = json.loads(payload)
    fields["added_tokens"] = [*fields.get("added_tokens", []), *lacking.values()]
    completed = json.dumps(fields).encode()
    given = tokenizers.Tokenizer.from_buffer(completed)
    for number, token in lacking.items():
        if (found := given.token_to_id(token["content"])) != number:
            raise TokenizerError(
                f"{uri} lacks {token['content']}, which the files beside it list under id {number}; added to this "
                f"vocabulary it would have id {found}. Save the tokenizer anew with transformers"
            )
    return completed
