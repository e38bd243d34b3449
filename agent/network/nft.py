"""The door to nftables: libnftables in process, and the generation number by netlink.

A child process `nft` costs 19 ms a change, this less than one. A change is one transaction, as
`nft -f` makes it. `instance` is the only caller, from its thread; the lock is for processes
with several instances, since the library keeps some state of its own.
"""

import ctypes
import ctypes.util
import json
import threading

from shoal.model.errors import FailedPrecondition, Internal

_JSON_OUTPUT = 1 << 4
_lock = threading.Lock()


class Nft:
    """A libnftables context, bound to the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("nftables") or "libnftables.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise FailedPrecondition(
                "libnftables is missing on this host: install nftables"
            ) from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, function).restype = ctypes.c_char_p
        with _lock:
            self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def apply(self, text: str) -> None:
        """Run commands as one transaction.

        Raises:
            Internal: nftables refused them; nothing has changed.
        """
        self._run(text)

    def chains(self, table: str) -> list[str] | None:
        """The names of a table's chains, None without such a table."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT)
        try:
            listing = json.loads(self._run("list chains inet"))["nftables"]
            tables = json.loads(self._run("list tables inet"))["nftables"]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        if not any(each.get("table", {}).get("name") == table for each in tables):
            return None
        chains = [each["chain"] for each in listing if "chain" in each]
        return [chain["name"] for chain in chains if chain["table"] == table]

    def has_timeouts(self, table: str, name: str) -> bool:
        """Whether a table has connection timeouts of that name."""
        try:
            self._run(f"list ct timeout inet {table} {name}")
        except Internal:
            return False
        return True

    def listing(self, table: str) -> str:
        """A table as `nft list table` shows it."""
        return self._run(f"list table inet {table}")

    def close(self) -> None:
        """Free the context."""
        with _lock:
            self._library.nft_ctx_free(self._context)

    def _run(self, text: str) -> str:
        with _lock:
            status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            raise Internal(f"nftables refused a change: {error.decode(errors='replace')}")
        return str(output.decode())
