"""Logits of a GGUF model under a control vector, by llama.cpp's own loader and graph: python llama_vectors.py MODEL VECTOR IDS.

The binding shows no control vectors, but its library exports llama.cpp's functions; they are called as C calls them.
Run as a process of its own: a changed library would end it, not the tests. Prints two rows of logits as JSON, without
the vector and with it.
"""

import ctypes
import json
import sys

import xllamacpp.xllamacpp as binding

LOADER = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"


class Settings(ctypes.Structure):
    """Room for any of the library's structures of settings, which are only passed through."""

    _fields_ = (("bytes", ctypes.c_char * 512),)


class Wanted(ctypes.Structure):
    """common_control_vector_load_info; the library is built with strings that are one pointer."""

    _fields_ = (("strength", ctypes.c_float), ("path", ctypes.c_char_p))


class Array(ctypes.Structure):
    """std::vector."""

    _fields_ = (("first", ctypes.c_void_p), ("last", ctypes.c_void_p), ("end", ctypes.c_void_p))


class Found(ctypes.Structure):
    """common_control_vector_data."""

    _fields_ = (("n_embd", ctypes.c_int), ("data", Array))


def loaded(library, path):
    """(width, floats) of a control vector file at scale 1."""
    wanted = Wanted(1.0, path.encode())
    start = ctypes.addressof(wanted)
    array = Array(start, start + ctypes.sizeof(wanted), start + ctypes.sizeof(wanted))
    load, found = getattr(library, LOADER), Found()
    load.restype, load.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]  # a large result comes back by address
    load(ctypes.byref(found), ctypes.byref(array))
    if found.n_embd <= 0:
        raise SystemExit("llama.cpp refused the file")
    n = (found.data.last - found.data.first) // 4
    return found.n_embd, (ctypes.c_float * n).from_address(found.data.first)


def declared(library):
    """The functions used, with their types."""
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, given in (
        ("llama_model_default_params", Settings, []),
        ("llama_context_default_params", Settings, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Settings]),
        ("llama_init_from_model", pointer, [pointer, Settings]),
        ("llama_set_adapter_cvec", number, [pointer, pointer, ctypes.c_size_t, number, number, number]),
        ("llama_batch_get_one", Settings, [pointer, number]),
        ("llama_decode", number, [pointer, Settings]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, number]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, given
    return library


def main():
    model_path, vector_path, ids, n_layers, n_vocab = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:6])
    library = declared(ctypes.CDLL(binding.__file__))
    width, values = loaded(library, vector_path)
    model = library.llama_model_load_from_file(model_path.encode(), library.llama_model_default_params())
    rows = []
    for steered in (False, True):
        context = library.llama_init_from_model(model, library.llama_context_default_params())
        if steered and library.llama_set_adapter_cvec(context, values, len(values), width, 1, n_layers):
            raise SystemExit("llama.cpp refused the vector")
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        if library.llama_decode(context, library.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama.cpp could not decode")
        rows.append(library.llama_get_logits_ith(context, -1)[:n_vocab])
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
