"""virglrenderer by ctypes: the calls that a virtio-gpu makes of it, from 0.10.4 on.

Loading it runs nothing of it. What it needs of OpenGL is looked for first, since it ends the process where that is
missing. All calls belong to one thread.
"""

import ctypes
import os
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from itertools import chain
from typing import Any, ClassVar, NamedTuple

from mdev_user.driver import GuestError, NotSupported

_NAME = "libvirglrenderer.so.1"
_NEEDED = (("libEGL.so.1", "libegl1"), ("libOpenGL.so.0", "libopengl0", "libGL.so.1"))
"""Libraries that it opens while it starts, the package, and what else serves."""
_PACKAGES = "libvirglrenderer1 libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"

_USE_EGL, _THREAD_SYNC, _SURFACELESS = 1, 2, 8
_EGL_EXTENSIONS = 0x3055
_ENVIRONMENT = {
    "EGL_PLATFORM": "surfaceless",
    "MESA_SHADER_CACHE_DISABLE": "true",  # a guest's shaders are not written to a disk of the host's
}


class Box(Structure):
    """``struct virgl_box``: a part of a resource."""

    _fields_: ClassVar = [(name, c_uint32) for name in ("x", "y", "z", "width", "height", "depth")]


class Copy(NamedTuple):
    """A part of a resource, and how it lies in memory."""

    box: tuple[int, int, int, int, int, int]
    """x, y and z, width, height and depth."""
    offset: int = 0
    level: int = 0
    stride: int = 0
    """Bytes from line to line; 0: as long as a line of the level is."""
    layer_stride: int = 0


class ResourceArgs(Structure):
    """``struct virgl_renderer_resource_create_args``."""

    _fields_: ClassVar = [
        (name, c_uint32)
        for name in [
            "handle",
            "target",
            "format",
            "bind",
            "width",
            "height",
            "depth",
            "array_size",
            "last_level",
            "nr_samples",
            "flags",
        ]
    ]


class Iovec(Structure):
    """``struct iovec``: an address and a length."""

    _fields_: ClassVar = [("base", c_void_p), ("length", c_size_t)]


class Pieces:
    """Memory for the library, in pieces: it keeps the address of what is here for as long as they are attached."""

    __slots__ = ("count", "vectors")

    def __init__(self, pieces: Sequence[tuple[int, int]]) -> None:
        """``pieces`` are addresses in this process, and lengths."""
        self.count = len(pieces)
        self.vectors = (Iovec * self.count).from_buffer(array("Q", chain.from_iterable(pieces)))


def address_of(memory: memoryview) -> int:
    """Where writable ``memory`` lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


_WriteFence = CFUNCTYPE(None, c_void_p, c_uint32)
_Debug = CFUNCTYPE(None, c_char_p, c_void_p)
_Log = CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class _Callbacks(Structure):
    """``struct virgl_renderer_callbacks``, version 1: the library makes its own OpenGL contexts."""

    _fields_: ClassVar = [("version", c_int), ("write_fence", _WriteFence), ("unused", c_void_p * 7)]


_U32, _IOVECS = c_uint32, POINTER(Iovec)
_FUNCTIONS: Mapping[str, tuple[type | None, tuple[object, ...]]] = {
    "init": (c_int, (c_void_p, c_int, POINTER(_Callbacks))),
    "cleanup": (None, (c_void_p,)),
    "poll": (None, ()),
    "get_poll_fd": (c_int, ()),
    "get_cap_set": (None, (_U32, POINTER(c_uint32), POINTER(c_uint32))),
    "fill_caps": (None, (_U32, _U32, c_char_p)),
    "context_create": (c_int, (_U32, _U32, c_char_p)),
    "context_destroy": (None, (_U32,)),
    "ctx_attach_resource": (None, (c_int, c_int)),
    "ctx_detach_resource": (None, (c_int, c_int)),
    "resource_create": (c_int, (POINTER(ResourceArgs), _IOVECS, _U32)),
    "resource_unref": (None, (_U32,)),
    "resource_attach_iov": (c_int, (c_int, _IOVECS, c_int)),
    "resource_detach_iov": (None, (c_int, c_void_p, c_void_p)),
    "submit_cmd": (c_int, (c_char_p, c_int, c_int)),
    "transfer_read_iov": (c_int, (_U32, _U32, _U32, _U32, _U32, POINTER(Box), c_uint64, _IOVECS, c_int)),
    "transfer_write_iov": (c_int, (_U32, _U32, c_int, _U32, _U32, POINTER(Box), c_uint64, _IOVECS, _U32)),
    "create_fence": (c_int, (c_int, _U32)),
}


def missing() -> str:
    """What of the libraries is not installed and how it is; empty when all are there. Nothing of them runs."""
    for name, package, *others in (*_NEEDED, (_NAME, "libvirglrenderer1")):
        errors = [_open_error(each) for each in (name, *others)]
        if all(errors):
            return f"{errors[0]}: install {package} (Debian: `apt install {_PACKAGES}`)"
    return ""


def _open_error(name: str) -> str:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return ""


class Library:
    """virglrenderer, started: one for each process, used by one thread.

    A call that it refuses is a GuestError with what it said of it. Its state is the process': another one in the same
    process (a test's) ends the first.
    """

    _started: "ClassVar[Library | None]" = None

    def __init__(self) -> None:
        """NotSupported where it cannot be loaded or cannot start."""
        if Library._started is not None:
            Library._started.close()
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
        if reason := missing() or _egl_missing():
            raise NotSupported(reason)
        self._library = _load()
        self._words: deque[str] = deque(maxlen=4)
        self._hear()
        self._passed: list[int] = []
        self._callbacks = _Callbacks(1, _WriteFence(self._fence_passed))
        flags = _USE_EGL | _SURFACELESS | _THREAD_SYNC
        if status := self._library.virgl_renderer_init(1, flags, byref(self._callbacks)):
            said = self._said() or "is libgl1-mesa-dri there?"
            raise NotSupported(f"virglrenderer does not start ({status}): {said}")
        Library._started = self

    def close(self) -> None:
        """The end of all of it; it must not be called any more."""
        if Library._started is self:
            self._library.virgl_renderer_cleanup(None)
            Library._started = None

    # --- contexts -------------------------------------------------------------------------------------------

    def create_context(self, context: int, name: bytes) -> None:
        self._check(self._library.virgl_renderer_context_create(context, len(name), name))

    def destroy_context(self, context: int) -> None:
        self._library.virgl_renderer_context_destroy(context)

    def attach(self, context: int, resource: int) -> None:
        """Let a context use a resource; nothing happens where one of them is not there."""
        self._library.virgl_renderer_ctx_attach_resource(context, resource)

    def detach(self, context: int, resource: int) -> None:
        self._library.virgl_renderer_ctx_detach_resource(context, resource)

    def submit(self, context: int, commands: bytes) -> None:
        """Perform commands; of their last bytes, those that make no word are left out."""
        self._check(self._library.virgl_renderer_submit_cmd(commands, context, len(commands) // 4))

    # --- resources ------------------------------------------------------------------------------------------

    def create_resource(self, args: ResourceArgs) -> None:
        """A number that is taken is the caller's mistake: the library forgets the first."""
        self._check(self._library.virgl_renderer_resource_create(byref(args), None, 0))

    def unref_resource(self, resource: int) -> None:
        self._library.virgl_renderer_resource_unref(resource)

    def attach_pieces(self, resource: int, pieces: Pieces) -> None:
        """``pieces`` are used until they are detached or the resource ends: the caller keeps them so long."""
        self._check(self._library.virgl_renderer_resource_attach_iov(resource, pieces.vectors, pieces.count))

    def detach_pieces(self, resource: int) -> None:
        self._library.virgl_renderer_resource_detach_iov(resource, None, None)

    def read(self, context: int, resource: int, copy: Copy, pieces: Pieces | None = None) -> None:
        """Copy a part of a resource into memory, by default what is attached to it; context 0 may use each resource."""
        self._transfer(self._library.virgl_renderer_transfer_read_iov, context, resource, copy, pieces)

    def write(self, context: int, resource: int, copy: Copy, pieces: Pieces | None = None) -> None:
        """Copy memory into a part of a resource."""
        self._transfer(self._library.virgl_renderer_transfer_write_iov, context, resource, copy, pieces)

    # Any: a function of the library.
    # Any: a function of the library
    def _transfer(self, call: Any, context: int, resource: int, copy: Copy, pieces: Pieces | None) -> None:  # noqa: ANN401
        box, vectors, count = Box(*copy.box), None, 0
        if pieces is not None:
            vectors, count = pieces.vectors, pieces.count
        strides = copy.stride, copy.layer_stride
        self._check(call(resource, context, copy.level, *strides, byref(box), copy.offset, vectors, count))

    # --- capability sets ------------------------------------------------------------------------------------

    def capset(self, number: int) -> tuple[int, bytes]:
        """The version and the contents of a capability set, which are empty where there is no such."""
        version, size = c_uint32(), c_uint32()
        self._library.virgl_renderer_get_cap_set(number, byref(version), byref(size))
        contents = ctypes.create_string_buffer(size.value)
        if size.value:
            self._library.virgl_renderer_fill_caps(number, version.value, contents)
        return version.value, contents.raw

    # --- fences ---------------------------------------------------------------------------------------------

    def fence(self, number: int) -> None:
        """``number``, of 32 bits, passes when all that was submitted is done."""
        self._check(self._library.virgl_renderer_create_fence(ctypes.c_int32(number).value, 0))

    def fence_fd(self) -> int:
        """Readable when fences have passed; -1 where they have to be asked for."""
        return int(self._library.virgl_renderer_get_poll_fd())

    def passed(self) -> list[int]:
        """Fences that have passed since the last call, in their order; one stands for all that were made before."""
        self._library.virgl_renderer_poll()
        passed, self._passed = self._passed, []
        return passed

    def _fence_passed(self, _cookie: int | None, number: int) -> None:
        self._passed.append(number)

    # --- what the library says ------------------------------------------------------------------------------

    def _check(self, status: int) -> None:
        if status:
            raise GuestError(f"virglrenderer: {self._said() or os.strerror(abs(status))}")
        self._words.clear()

    def _said(self) -> str:
        words = "; ".join(self._words)
        self._words.clear()
        return words

    def _hear(self) -> None:
        """Hear what it says; by default it says that on stderr, as often as a guest makes it."""
        library = self._library
        self._log: object = None
        if hasattr(library, "virgl_set_log_callback"):  # 1.1
            self._log = _Log(lambda _level, text, _data: self._words.append(_plain(text)))
            library.virgl_set_log_callback(self._log, None, None)
        elif hasattr(library, "virgl_set_debug_callback"):
            self._log = _Debug(lambda form, arguments: self._words.append(_plain(_formatted(form, arguments))))
            library.virgl_set_debug_callback(self._log)


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_NAME)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, f"virgl_renderer_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _egl_missing() -> str:
    """Whether EGL has an implementation: virglrenderer does not ask, and uses what it does not get."""
    query = ctypes.CDLL("libEGL.so.1").eglQueryString
    query.restype, query.argtypes = c_char_p, (c_void_p, c_int)
    if b"EGL_MESA_platform_surfaceless" in (query(None, _EGL_EXTENSIONS) or b""):
        return ""
    return "EGL has no implementation that draws without a screen: install libegl-mesa0"


def _formatted(form: bytes, arguments: int | None) -> bytes:
    """What the C library makes of a format and a va_list, at most 255 bytes of it."""
    text = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).vsnprintf(text, c_size_t(len(text)), c_char_p(form), c_void_p(arguments))
    return text.value


def _plain(text: bytes | None) -> str:
    """Printable: parts of it are a guest's."""
    return "".join(each if each.isprintable() else " " for each in (text or b"").decode("ascii", "replace")).strip()
