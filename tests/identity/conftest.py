"""What the tests of identity share."""

import pytest
from hypothesis import settings

from identity import LocalSigner, SecretKey

# A busy machine is not a failing test.
settings.register_profile("tradepost", deadline=None)
settings.load_profile("tradepost")


@pytest.fixture
def alice() -> SecretKey:
    return SecretKey(bytes([1]) * 32)


@pytest.fixture
def bob() -> SecretKey:
    return SecretKey(bytes([2]) * 32)


@pytest.fixture
def alices_signer(alice: SecretKey) -> LocalSigner:
    return LocalSigner(alice)


@pytest.fixture
def bobs_signer(bob: SecretKey) -> LocalSigner:
    return LocalSigner(bob)
