#!/usr/bin/env python3
"""Checks the proof of a receipt of aarm, or of all of a session, knowing public specifications only.

    verify-proof.py PROOF KEYS

PROOF is what `aarm prove` writes: a transparency log proof (c2sp.org/tlog-proof) whose extra data is the receipt. KEYS is the log's
`log.pub`, got by a way that can be trusted: verifier keys of signed notes (c2sp.org/signed-note) in pairs, the first of which signs
checkpoints; `since N` before a later pair says that checkpoints of more than N receipts are signed by that.
Prints the receipt and exits with 0 if it is in the log that was signed, otherwise exits with 1. What `aarm prove --session` writes has the
session's other receipts before that, one a line; each of them is named by the next: `prev` is its leaf hash. Needs Python 3 and its
package `cryptography`.
"""

import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class NotProven(Exception):
    """Why."""


def decode(text):
    return base64.b64decode(text, validate=True)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def read_key(text):
    """A verifier key: name, key hash, and one byte of type before the Ed25519 key."""
    name, given, encoded = text.strip().split("+", 2)
    key = decode(encoded)
    key_id = sha256(name.encode(), b"\n", key)[:4]
    if key[0] != 1 or len(key) != 33 or key_id.hex() != given:
        raise NotProven("not a verifier key of Ed25519")
    return name, key_id, Ed25519PublicKey.from_public_bytes(key[1:])


def key_for(size, keys):
    """The key that was to sign a checkpoint of so many receipts."""
    lines = keys.splitlines()
    found = lines[0]
    for number, line in enumerate(lines):
        if line.startswith("since ") and int(line[6:]) < size:
            found = lines[number + 1]
        if line.startswith("until ") and int(line[6:]) < size:
            raise NotProven("the checkpoint is after the end that was set for the keys")
    return read_key(found)


def open_checkpoint(note, keys):
    """Size and root of a checkpoint that was signed by the key that was to."""
    text, signatures = note.split("\n\n", 1)
    name, key_id, public = key_for(int(text.split("\n")[1]), keys)
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        blob = decode(encoded)
        if dash == "\u2014" and signer == name and blob[:4] == key_id:
            public.verify(blob[4:], (text + "\n").encode())
            break
    else:
        raise NotProven("the checkpoint is not signed by this key")
    origin, size, root = text.split("\n")
    if origin != name:
        raise NotProven("the checkpoint is another log's")
    return int(size), decode(root)


def root_of(leaf, index, size, proof):
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        raise NotProven("there is no such receipt in a log of this size")
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise NotProven("the proof is too long")
        if node & 1 or node == last:
            result = sha256(b"\x01", sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = sha256(b"\x01", result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProven("the proof is too short")
    return result


def check(proof, keys):
    head, note = proof.split("\n\n", 1)
    magic, extra, place, *hashes = head.split("\n")
    if magic != "c2sp.org/tlog-proof@v1" or not extra.startswith("extra ") or not place.startswith("index "):
        raise NotProven("not a proof with a receipt")
    receipt, index = decode(extra[6:]), int(place[6:])
    size, root = open_checkpoint(note, keys)
    if root_of(sha256(b"\x00", receipt), index, size, [decode(h) for h in hashes]) != root:
        raise NotProven(f"the receipt is not number {index} of the {size} that were signed")
    return receipt


def check_chain(receipts):
    """Whether receipts are all that a session had: each names the one before, from the session's beginning to its end."""
    before = bytes(32)
    said = [json.loads(receipt) for receipt in receipts]
    for receipt, says in zip(receipts, said):
        if decode(says["prev"]) != before or says["session"] != said[0]["session"]:
            raise NotProven("a receipt does not name the one before")
        before = sha256(b"\x00", receipt)
    if said[0]["kind"] != "session_open" or said[-1]["kind"] != "session_close":
        raise NotProven("these are not all receipts of the session")


def check_all(text, keys):
    """The receipts that are proven: one, or all of a session."""
    lines = text.split("\n")
    before = next((n for n, line in enumerate(lines) if not line.startswith("{")), len(lines))
    receipts = [line.encode("ascii") for line in lines[:before]]
    receipts.append(check("\n".join(lines[before:]), keys))
    if before:
        check_chain(receipts)
    return receipts


def main(paths):
    if len(paths) != 2:
        sys.exit(__doc__)
    try:
        with open(paths[0], encoding="utf-8", newline="\n") as proof, open(paths[1], encoding="utf-8") as keys:
            receipts = check_all(proof.read(), keys.read())
    except InvalidSignature:
        sys.exit("not proven: the checkpoint's signature is wrong")
    except (NotProven, OSError, ValueError, LookupError, TypeError) as e:
        sys.exit(f"not proven: {e}")
    for receipt in receipts:
        print(receipt.decode("ascii"))


if __name__ == "__main__":
    main(sys.argv[1:])
