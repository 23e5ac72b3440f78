"""The ways in which the damage matrix damages a file: bytes, whole files in its place, and what is inside.

Each is a function of the file's bytes and a random.Random to the damaged bytes. What a damage cannot be done to stays
as it is. None: no bytes take the place of the file, but what the name of the damage says.
"""
import csv
import io
import json
import pickle
import re
import zipfile

import numpy as np
import torch


class Executed:
    """A pickle that leaves a file where it is loaded."""

    def __reduce__(self):
        return exec, ("open('executed', 'w').close()",)


def flip(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1:]


def zipped_pickle():
    """What torch.save writes of an object that is no tensor."""
    buffer = io.BytesIO()
    torch.save(Executed(), buffer)
    return buffer.getvalue()


ARRAYS = ("images", "labels", "logits", "positions", "source", "unreadable", "pred", "conf", "label")


def zipped_array(shape):
    """An .npz file whose header says so much."""
    buffer, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", header.getvalue() + b"12")
    return buffer.getvalue()


def zipped_pickled_array():
    buffer = io.BytesIO()
    np.savez(buffer, **dict.fromkeys(ARRAYS, np.array([Executed()], dtype=object)))
    return buffer.getvalue()


def nan_state(content):
    """A state dict's first tensor becomes NaN; other files stay as they are."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
        next(tensor for tensor in state.values() if torch.is_tensor(tensor)).fill_(torch.nan)
    except Exception:
        return content
    return saved(state)


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


# ---- what is inside, of another type ----

OTHER_VALUES = [None, "text", "", 7, -1, 2.5, True, [], {}, [1, "a"], {"a": 1}, [[]], 10**30, "0", "../../x"]


def inside(change):
    """A damage that changes a random entry of JSON, of a saved state or of an .npz, or a row of a table.

    Args:
        change: (dict or list, key, rng) → None, changes the entry.
    """
    def damage(content, rng):
        try:
            value = json.loads(content)
            write = lambda value: json.dumps(value).encode()
        except ValueError:
            value, write = binary(content)
        if not isinstance(value, dict | list) or not value:
            return content
        owner, key = rng.choice(list(places(value)))
        change(owner, key, rng)
        return write(value)

    return damage


def binary(content):
    """(what a file holds that is no JSON, the function that writes it); (None, None) for other files."""
    try:
        return torch.load(io.BytesIO(content), weights_only=True), saved
    except Exception:
        pass
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return dict(arrays), zipped
    except Exception:
        pass
    text = content.decode("utf-8", "replace")
    if "\n" in text and "," in text.splitlines()[0] and "\0" not in text:
        return list(csv.reader(io.StringIO(text, newline=""))), table
    return None, None


def zipped(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def table(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row if isinstance(row, list) else [row] for row in rows)
    return text.getvalue().encode()


def places(value):
    """(owner, key) of every entry, but of long lists only the first two."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 2))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from places(value[key])


def lose(owner, key, rng):
    del owner[key]


def become_another(owner, key, rng):
    old = owner[key]
    if torch.is_tensor(old):
        owner[key] = rng.choice([old.flatten(), old[..., None], old.bool(), old.to(torch.complex64), [1], None])
    elif isinstance(old, np.ndarray):
        owner[key] = rng.choice([old.astype("U9"), old.astype(np.complex64), old[..., None], np.array("a")]) if (
            old.dtype.kind in "iuf") else np.zeros(3)
    else:
        owner[key] = rng.choice([new for new in OTHER_VALUES if kind(new) != kind(old)])


def kind(value):
    """A number is like a number: 7 in the place of 2.5 is edited by hand, not damaged."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


DAMAGES = {
    "empty": lambda content, rng: b"",
    "first byte only": lambda content, rng: content[:1],
    "cut": lambda content, rng: content[: len(content) // 2],
    "last byte lost": lambda content, rng: content[:-1],
    "zeros inside": lambda content, rng: content[: len(content) // 3] + b"\0" * 64 + content[len(content) // 3 + 64:],
    "a bit flipped": flip,
    "doubled": lambda content, rng: content * 2,
    "a list": lambda content, rng: b"[1, 2]",
    "text": lambda content, rng: "no file of ours, \xfcmlaut".encode("latin-1"),
    "a pickle": lambda content, rng: pickle.dumps(Executed()),
    "a pickle in a zip": lambda content, rng: zipped_pickle(),
    "28 TB announced": lambda content, rng: zipped_array((1 << 30, 28 << 10)),
    "an array of objects": lambda content, rng: zipped_pickled_array(),
    "NaN": lambda content, rng: re.sub(rb"\d+\.\d+", b"NaN", content) if content.isascii() else nan_state(content),
    "a folder": None, "missing": None, "the other run's": None, "a link to itself": None, "a pipe": None,
    "spaces": lambda content, rng: b" \n",
    "nested": lambda content, rng: b"[" * 100_000,
    "UTF-16": lambda content, rng: content.decode().encode("utf-16") if content.isascii() else content,
    "an entry lost": inside(lose),
    "an entry of another type": inside(become_another),
    "another entry of another type": inside(become_another),
}
