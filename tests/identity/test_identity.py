import inspect

import identity
from identity import errors


def test_every_public_name_is_there() -> None:
    assert sorted(identity.__all__) == identity.__all__
    assert all(hasattr(identity, name) for name in identity.__all__)


def test_every_error_is_exported_and_in_the_tree() -> None:
    own = [one for one in inspect.getmembers(errors, inspect.isclass) if one[1].__module__ == errors.__name__]
    assert own
    for name, error in own:
        assert issubclass(error, identity.IdentityError)
        assert name in identity.__all__
        assert name in (errors.__doc__ or "")
