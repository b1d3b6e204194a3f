"""A Dask cluster as an executor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.util import find_spec

from zoo.errors import ZooError


@contextmanager
def connected(address: str, timeout: float = 10.0) -> Iterator[Executor]:
    """Give the executor of the Dask cluster at ``address``, e.g. ``tcp://127.0.0.1:8786``. Needs the extra ``dask``.

    Its workers must have this library installed, and see the same files.

    Args:
        address: of the scheduler.
        timeout: seconds to wait for it.

    Raises:
        ZooError: dask is not installed, or the scheduler does not answer.
    """
    if find_spec("distributed") is None:
        raise ZooError("expected dask for --dask; got none installed; pip install 'latent-zoo[dask]'")
    from distributed import Client

    try:
        # A client that is Dask's default stays it when its scheduler does not answer: Dask's later work would fail.
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ZooError(f"expected a Dask scheduler at '{address}'; got no answer: {first[:160]}; check the address") from None
    with client:
        # Runs leave files behind: none is to be done twice because another looks alike.
        yield client.get_executor(pure=False)
