import pytest

from wallet import errors
from wallet.errors import Action, ExposureExceeded, InsufficientFunds, MintError, RailRefused, WalletError

OF_THEIR_OWN = (
    ExposureExceeded,
    InsufficientFunds,
    MintError,
    RailRefused,
)  # what they say is made of numbers and codes


def all_errors(base: type[WalletError]) -> list[type[WalletError]]:
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


def test_the_tree_in_the_docstring_is_the_tree():
    documented = {
        line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line
    }
    ours = {error.__name__ for error in all_errors(WalletError) if error.__module__ == "wallet.errors"}
    assert documented == ours - {"WalletError"}


@pytest.mark.parametrize("error", [e for e in all_errors(WalletError) if e not in OF_THEIR_OWN])
def test_every_error_says_what_to_do(error):
    assert error("what happened").action in Action
    assert error("what happened", action=Action.WAIT).action is Action.WAIT


def test_missing_funds_are_named_in_sat():
    error = InsufficientFunds(needed_sat=21, available_sat=3)
    assert (error.needed_sat, error.available_sat, error.action) == (21, 3, Action.FUND)
    assert "21 sat" in str(error)
    assert "3 sat" in str(error)


def test_a_mints_refusal_keeps_its_code_and_cuts_its_text():
    error = MintError(mint_code=11002, detail="x" * 500)
    assert (error.mint_code, error.action, len(error.detail)) == (11002, Action.WAIT, 200)
    assert MintError(mint_code=99999, detail="").action is Action.GIVE_UP
