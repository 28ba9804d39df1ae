"""Reader of pickles that hold plain data and nothing else, such as the `refs(unc).p` of RefCOCO.

A pickle is a program that builds a value and may call any function to do so. Here the opcodes that look something up
or call it do not exist, so nothing of a file is ever run. The Python form of the standard library's unpickler is used:
its memo is a dictionary, where the C form reserves memory for any number that a file names.
"""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from datamodules.formats.records import FormatError

_LARGEST_FILE = 1 << 30
_LARGEST_KEY = 1 << 63

# fmt: off
_PLAIN = [
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "LIST", "EMPTY_LIST", "APPEND", "APPENDS",
    "TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS",
]
_REFUSED = [
    "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "PERSID", "BINPERSID",
    "EXT1", "EXT2", "EXT4", "EMPTY_SET", "ADDITEMS", "FROZENSET", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER",
]
# fmt: on


class _NotPlain(Exception):
    """The file holds something else than plain data."""


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle of dictionaries, lists, tuples, strings, bytes, numbers, booleans and None.

    All protocols, also of Python 2, whose byte strings come as Latin-1 text. Raises FormatError, one line with the
    file's name, for a broken pickle and for one that holds anything else, whose shared parts unfold to more than the
    file has bytes, or that contains itself.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise FormatError(f"{path}: larger than {_LARGEST_FILE >> 30} GiB: not read as a pickle")
    data = path.read_bytes()
    try:
        value = _PlainUnpickler(BytesIO(data), encoding="latin1").load()
        _check_unfolded(value, len(data))
    except _NotPlain as error:
        raise FormatError(f"{path}: a pickle of more than plain data is not read ({error})") from None
    except Exception:
        # What a broken pickle raises depends on where it breaks: EOFError, IndexError, KeyError, struct.error, ...
        raise FormatError(f"{path}: broken pickle") from None
    return value


def _check_unfolded(value: Any, limit: int) -> None:
    """Raises _NotPlain where a walk through the value meets more than `limit` things.

    A pickle needs a byte for everything that it holds once; only parts that are shared again and again need less.
    """
    waiting = [value]
    met = 0
    while waiting:
        found = waiting.pop()
        met += 1
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list | tuple):
            waiting += found
        if met + len(waiting) > limit:
            raise _NotPlain("its parts are shared without end")


def _refusal(name: str) -> Callable[[Any], NoReturn]:
    def refuse(unpickler: Any) -> NoReturn:
        raise _NotPlain(f"opcode {name}")

    return refuse


def _code(name: str) -> int:
    opcode: bytes = getattr(pickle, name)
    return opcode[0]


def _checked(key: Any) -> Any:
    """A dictionary's key; hashing anything but a string or a small number may take forever."""
    if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < _LARGEST_KEY)):
        raise _NotPlain("a key that is neither a string nor a number")
    return key


class _PlainUnpickler(pickle._Unpickler):
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{_code(name): pickle._Unpickler.dispatch[_code(name)] for name in _PLAIN},
        **{_code(name): _refusal(name) for name in _REFUSED},
    }

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_pairs(items))

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._open_dictionary().update(_pairs(items))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._open_dictionary()[_checked(key)] = value

    def _open_dictionary(self) -> dict[Any, Any]:
        found = self.stack[-1]
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("items for what is no dictionary")
        return found

    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_checked(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
