"""Documents that carry the digest of their own bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from internvl_trainer.contract import gate
from internvl_trainer.contract.manifest import Manifest
from internvl_trainer.contract.seal import BrokenSealError
from tests.unit.contract.examples import manifest

pytestmark = pytest.mark.unit

PAYLOAD = manifest().to_bytes()


def test_what_was_sealed_is_read_and_compares_by_what_it_says() -> None:
    assert b'"seal": "' in PAYLOAD
    assert Manifest.from_bytes(PAYLOAD) == manifest()
    assert Manifest.from_bytes(PAYLOAD).seal == ""


@given(st.integers(0, len(PAYLOAD) - 1), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place: int, bit: int) -> None:
    damaged = bytearray(PAYLOAD)
    damaged[place] ^= 1 << bit
    assert isinstance(gate.parse(Manifest, bytes(damaged)), gate.Unparsable)


@given(st.integers(0, len(PAYLOAD) - 1))
def test_no_missing_end_goes_unnoticed(length: int) -> None:
    assert isinstance(gate.parse(Manifest, PAYLOAD[:length]), gate.Unparsable)


def test_an_unsealed_document_of_an_earlier_writer_is_read() -> None:
    unsealed = PAYLOAD.replace(PAYLOAD.split(b'"seal": "')[1][:64], b"")
    assert Manifest.from_bytes(unsealed) == manifest()


def test_a_seal_is_not_given_by_hand() -> None:
    with pytest.raises(ValidationError, match="not given by hand"):
        manifest(seal="0" * 64)


def test_a_broken_seal_is_told_from_a_wrong_field() -> None:
    with pytest.raises(BrokenSealError, match="Manifest have changed"):
        Manifest.from_bytes(PAYLOAD.replace(b'"step": 2', b'"step": 1'))
    with pytest.raises(ValidationError, match="attempt"):
        Manifest.from_bytes(PAYLOAD.replace(b'"attempt": 1', b'"attempt": 0'))
