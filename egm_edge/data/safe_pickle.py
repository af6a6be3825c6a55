"""Pickles of strangers: plain containers, texts and numbers; nothing is imported, called or built.

Every opcode is checked against a list before anything is unpickled, so a pickle that names a class or a function is
refused unread, whatever it would have done. Evaluation and training read the same distributions through here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from egm_edge.errors import InputError

MAX_PICKLE_BYTES = 1 << 30
_PLAIN = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8 NONE NEWTRUE NEWFALSE UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT EMPTY_LIST
    APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS
    FROZENSET POP DUP MARK POP_MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE PROTO STOP FRAME
"""
PLAIN_OPCODES = frozenset(_PLAIN.split())


def load_safe_pickle(path: Path) -> Any:
    """What the pickle holds.

    Raises:
        InputError: it asks for anything but plain values, is cut off or damaged, or is too large.

    Example:
        >>> load_safe_pickle(Path("/no/such.p"))
        Traceback (most recent call last):
        ...
        egm_edge.errors.InputError: expected a pickle; found nothing at /no/such.p; check the path
    """
    if not path.is_file():
        raise InputError("a pickle", f"nothing at {path}", "check the path")
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise InputError(f"a pickle of at most {MAX_PICKLE_BYTES >> 30} GiB", f"a larger {path}", "check the file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError("a readable pickle", f"{path}: {error.strerror or error}", "check the path") from None
    try:
        for opcode, argument, position in pickletools.genops(data):
            # the C unpickler allocates its memo up to the largest index named; no honest pickle names more than it has bytes
            bad_memo = opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(data)
            if opcode.name not in PLAIN_OPCODES or bad_memo:
                what = f"{opcode.name} {str(argument or '')[:60]}".strip()
                raise InputError(
                    "a pickle of plain containers, texts and numbers",
                    f"{what} at byte {position} of {path}, refused and not executed",
                    "take the file from its original source",
                )
        return _NoClasses(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except InputError:
        raise
    except Exception as error:  # a damaged stream raises almost anything
        found = f"{path}: {type(error).__name__}: {str(error)[:100]}"
        raise InputError("a complete pickle", found, "copy the file again") from None


class _NoClasses(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} refused")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("persistent id refused")
