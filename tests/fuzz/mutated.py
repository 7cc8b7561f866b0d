"""Bytes that were right once: flipped, cut, doubled, spliced with others; for hypothesis."""

from collections.abc import Sequence

from hypothesis import strategies as st


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after up to four changes."""
    raw = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(("flip", "cut", "drop", "splice", "write"))):
            case "flip" if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del raw[at:]
            case "drop":
                del raw[at : at + draw(st.integers(1, 16))]
            case "splice":
                other = draw(st.sampled_from(seeds))
                start = draw(st.integers(0, len(other)))
                raw[at:at] = other[start : start + draw(st.integers(1, 64))]
            case _:
                raw[at : at + 4] = draw(st.binary(min_size=1, max_size=8))
    return bytes(raw)
