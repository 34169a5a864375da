"""Files outside the packages that processes read: seeds, realm, bootstrap, descriptors."""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
_WHEEL = Path(__file__).parent / "_files"


def resource(relative_path: str) -> Path:
    """The file or folder, named as in the repository (`etcd/seed`), of this checkout or of the installed wheel.

    Raises FileNotFoundError.
    """
    for root in (_WHEEL, _CHECKOUT):
        if (path := root / relative_path).exists():
            return path
    raise FileNotFoundError(f"{relative_path} is neither in {_CHECKOUT} nor in {_WHEEL}")
